// One translation under the RCU flavour whose read sections cost nothing: each reader reports after
// each access that it holds no reference (quiescent-state-based reclamation). It would not do for
// the product: a vCPU thread that is inside KVM_RUN reports nothing.
//
// Thread safety: as protected_word.h. A thread that has read must read on, or end, while another
// one invalidates.

#ifndef UNDERFOOT_TESTS_BENCH_COMPARATORS_QSBR_WORD_H_
#define UNDERFOOT_TESTS_BENCH_COMPARATORS_QSBR_WORD_H_

#define _LGPL_SOURCE  // liburcu's own name: its functions of a few lines are inlined
#include <urcu/urcu-qsbr.h>

#include <cstdint>
#include <optional>

#include "tests/bench/comparators/protected_word.h"

namespace underfoot::bench {

class QsbrWord {
 public:
  [[gnu::always_inline]] std::optional<uint64_t> Read(uint64_t index) {
    return ReadInSection(*this, index);
  }
  template <class Use>
  [[gnu::always_inline]] bool Section(const Use& use) {
    if (!registered) [[unlikely]]
      Register();
    const bool valid = word_.valid();
    if (valid) use();
    urcu_qsbr_quiescent_state();
    return valid;
  }
  void Invalidate() {
    word_.SetValid(false);
    urcu_qsbr_synchronize_rcu();
  }
  void Validate() { word_.SetValid(true); }
  Word& word() { return word_; }

 private:
  struct Registration {
    Registration() { urcu_qsbr_register_thread(); }
    ~Registration() { urcu_qsbr_unregister_thread(); }
    Registration(const Registration&) = delete;
    Registration& operator=(const Registration&) = delete;
  };

  static void Register() {
    static thread_local const Registration registration;
    static_cast<void>(registration);
    registered = true;
  }

  static inline constinit thread_local bool registered = false;
  Word word_;
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_COMPARATORS_QSBR_WORD_H_
