// A host mm of a test's own: real pages of this process, whose frames change when the test says so.
//
// A page's frame number contains its index and its generation, so that a translation from before a
// move is recognized wherever it turns up.
//
// Thread safety: any thread. Move belongs between Begin and End. SetAnswer before the threads
// start.

#ifndef UNDERFOOT_TESTS_UNIT_FAKE_HOST_H_
#define UNDERFOOT_TESTS_UNIT_FAKE_HOST_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "mmu/base/types.h"
#include "mmu/page_source.h"

namespace underfoot::testing {

class FakeHost final : public PageSource {
 public:
  // What a page-in answers instead of its usual success; nothing: the usual.
  using Answer = std::function<std::optional<PageInResult>(Hva page, Access access)>;

  explicit FakeHost(uint64_t pages);
  ~FakeHost() override;
  FakeHost(const FakeHost&) = delete;
  FakeHost& operator=(const FakeHost&) = delete;

  HvaRange range() const { return {base_, base_ + generations_.size() * kPageSize}; }
  Hva PageAt(uint64_t index) const { return base_ + index * kPageSize; }
  HvaRange Pages(uint64_t first, uint64_t count = 1) const {
    return {PageAt(first), PageAt(first + count)};
  }

  PageInResult PageIn(Hva page, Access access, FaultContext*) override;

  // The host mm call: the pages get other frames.
  void Move(HvaRange range);

  Pfn PfnOf(Hva page) const;
  static uint64_t GenerationOf(Pfn pfn) { return pfn.value >> kIndexBitsOfPfn; }

  void SetAnswer(Answer answer) { answer_ = std::move(answer); }
  // Otherwise a page that is only read is granted for writing as well.
  void GrantOnlyWhatIsAskedFor() { frugal_ = true; }
  uint64_t page_ins() const { return page_ins_.load(); }

 private:
  static constexpr unsigned kIndexBitsOfPfn = 20;

  uint64_t IndexOf(Hva page) const { return (page - base_) / kPageSize; }

  Hva base_;
  std::vector<std::atomic<uint32_t>> generations_;
  std::atomic<uint64_t> page_ins_{0};
  Answer answer_;
  bool frugal_ = false;
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_UNIT_FAKE_HOST_H_
