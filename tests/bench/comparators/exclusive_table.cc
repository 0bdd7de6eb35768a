#include "tests/bench/comparators/exclusive_table.h"

#include <algorithm>

namespace underfoot::bench {

ExclusiveTable::ExclusiveTable() : root_(std::make_unique<Node>()) {}

ExclusiveTable::~ExclusiveTable() { Free(root_.release(), kLevels - 1); }

void ExclusiveTable::Free(Node* node, unsigned level) {
  const std::unique_ptr<Node> owned(node);
  if (level == 0) return;
  for (const uint64_t word : node->words) {
    if (word != 0) Free(ChildOf(word), level - 1);
  }
}

ExclusiveTable::Node* ExclusiveTable::TableOf(Gfn gfn) {
  Node* node = root_.get();
  for (unsigned level = kLevels - 1; level > 0; --level) {
    uint64_t& word = node->words[IndexOf(gfn, level)];
    if (word == 0) {
      word = WordOf(new Node);
      ++node->used;
    }
    node = ChildOf(word);
  }
  return node;
}

void ExclusiveTable::Map(Gfn gfn, Pfn pfn, Access granted) {
  Node* node = TableOf(gfn);
  uint64_t& word = node->words[IndexOf(gfn, 0)];
  if (word == 0) ++node->used;
  word = Pte::Leaf(pfn, granted).word();
}

void ExclusiveTable::MapRange(GfnRange gfns, Pfn pfn, Access granted) {
  for (Gfn gfn = gfns.begin; gfn < gfns.end; gfn += kEntries) {
    Node* node = TableOf(gfn);
    const Pfn first = pfn + (gfn - gfns.begin);
    for (unsigned i = 0; i < kEntries; ++i) {
      node->words[i] = Pte::Leaf(first + i, granted).word();
    }
    node->used = kEntries;
  }
}

void ExclusiveTable::Unmap(GfnRange range) { UnmapBelow(*root_, kLevels - 1, range); }

void ExclusiveTable::UnmapBelow(Node& node, unsigned level, GfnRange range) {
  for (Gfn gfn = range.begin; gfn < range.end;) {
    const Gfn next = std::min(EntryRange(gfn, level).end, range.end);
    uint64_t& word = node.words[IndexOf(gfn, level)];
    if (word != 0 && level > 0) {
      Node* child = ChildOf(word);
      UnmapBelow(*child, level - 1, {gfn, next});
      if (child->used == 0) {
        delete child;
        word = 0;
        --node.used;
      }
    } else if (word != 0) {
      word = 0;
      --node.used;
    }
    gfn = next;
  }
}

Pte ExclusiveTable::Lookup(Gfn gfn) const {
  const Node* node = root_.get();
  for (unsigned level = kLevels - 1; level > 0; --level) {
    const uint64_t word = node->words[IndexOf(gfn, level)];
    if (word == 0) return Pte();
    node = ChildOf(word);
  }
  return Pte(node->words[IndexOf(gfn, 0)]);
}

}  // namespace underfoot::bench
