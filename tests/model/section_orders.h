// A reader's section against an invalidation: the steps that reader_orders.cc and detach_orders.cc
// share. The reader announces its section and then reads the link; the invalidation empties the link
// and then reads the announcement. The host's page is a plain variable: the checker reports any use
// that the wait of Begin does not come after.

#ifndef UNDERFOOT_TESTS_MODEL_SECTION_ORDERS_H_
#define UNDERFOOT_TESTS_MODEL_SECTION_ORDERS_H_

#include "relacy_main.h"

struct SectionOrders {
  rl::memory_order publish;   // the installer stores the link
  rl::memory_order announce;  // the reader stores its slot
  rl::memory_order look;      // the reader reads the link
  rl::memory_order leave;     // the reader empties its slot
  rl::memory_order empty;     // the invalidation empties the link
  rl::memory_order scan;      // the invalidation reads the slot
  rl::memory_order spin;      // the invalidation waits for the slot
};

// `Linked` has the orders, and is what the link leads to besides the page: Fill() is called before it
// is linked, Check() by a reader that has found the link.
template <class Linked>
struct Section : rl::test_suite<Section<Linked>, 3> {
  rl::atomic<int> link;  // 1: leads to the page
  Linked linked;
  rl::atomic<int> slot;  // 0, or the nonce of the section
  rl::var<int> page;

  void before() {
    link($) = 0;
    linked.Reset();
    slot($) = 0;
    page($) = 0;
  }

  // The host has made the page; the link to it is published.
  void Install() {
    page($) = 1;
    linked.Fill();
    link($).store(1, Linked::kOrders.publish);
  }

  void Read() {
    slot($).exchange(1, Linked::kOrders.announce);
    if (link($).load(Linked::kOrders.look) == 1) {
      linked.Check();
      RL_ASSERT(page($) == 1);
    }
    slot($).store(0, Linked::kOrders.leave);
  }

  void Invalidate() {
    int linked_before = 1;
    if (!link($).compare_exchange_strong(linked_before, 0, Linked::kOrders.empty, rl::mo_relaxed))
      return;
    const int seen = slot($).load(Linked::kOrders.scan);
    rl::linear_backoff backoff;
    while (seen != 0 && slot($).load(Linked::kOrders.spin) == seen) backoff.yield($);
    page($) = 2;
  }

  void thread(unsigned index) {
    if (index == 0) Install();
    if (index == 1) Read();
    if (index == 2) Invalidate();
  }
};

#endif  // UNDERFOOT_TESTS_MODEL_SECTION_ORDERS_H_
