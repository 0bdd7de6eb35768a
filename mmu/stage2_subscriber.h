// Stage-2 as a subscriber of the notifier: finds the gfns of an hva range in the memslots.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_MMU_STAGE2_SUBSCRIBER_H_
#define UNDERFOOT_MMU_STAGE2_SUBSCRIBER_H_

#include "mmu/memslot.h"
#include "mmu/notifier.h"
#include "mmu/stage2.h"

namespace underfoot {

class Stage2Subscriber final : public Subscriber {
 public:
  Stage2Subscriber(const MemslotTable& memslots, Stage2& stage2)
      : memslots_(memslots), stage2_(stage2) {}

  bool Invalidate(const Invalidation& invalidation) override;
  void AfterInvalidate() override { stage2_.Relieve(); }
  bool TestClearYoung(HvaRange range, bool clear) override;

 private:
  const MemslotTable& memslots_;
  Stage2& stage2_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_STAGE2_SUBSCRIBER_H_
