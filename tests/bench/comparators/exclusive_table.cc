#include "tests/bench/comparators/exclusive_table.h"

#include <algorithm>
#include <new>

#include "mmu/stage2/table_memory.h"

namespace underfoot::bench {

ExclusiveTable::ExclusiveTable(Memory memory) : memory_(memory), root_(NewNode()) {}

ExclusiveTable::~ExclusiveTable() { Free(root_, kLevels - 1); }

void* ExclusiveTable::Room() const {
  switch (memory_) {
    case Memory::kOwn:
      return ::operator new(sizeof(Node));
    case Memory::kOfStage2:
      return table_memory::Allocate();
  }
  return nullptr;
}

void ExclusiveTable::Delete(Node* node) const {
  switch (memory_) {
    case Memory::kOwn:
      return ::operator delete(node);
    case Memory::kOfStage2:
      return table_memory::Free(node);
  }
}

void ExclusiveTable::Free(Node* node, unsigned level) {
  if (level > 0) {
    for (const uint64_t word : node->words) {
      if (word != 0) Free(ChildOf(word), level - 1);
    }
  }
  Delete(node);
}

ExclusiveTable::Node* ExclusiveTable::ChildAt(Node& node, Gfn gfn, unsigned level) {
  uint64_t& word = node.words[IndexOf(gfn, level)];
  if (word == 0) {
    word = WordOf(NewNode());
    ++node.used;
  }
  return ChildOf(word);
}

ExclusiveTable::Node* ExclusiveTable::BlockTableOf(Gfn gfn) {
  Node* node = root_;
  for (unsigned level = kLevels - 1; level > 1; --level) node = ChildAt(*node, gfn, level);
  return node;
}

void ExclusiveTable::Map(Gfn gfn, Pfn pfn, Access granted) {
  Node* node = ChildAt(*BlockTableOf(gfn), gfn, 1);
  uint64_t& word = node->words[IndexOf(gfn, 0)];
  if (word == 0) ++node->used;
  word = Pte::Leaf(pfn, granted).word();
}

void ExclusiveTable::MapRange(GfnRange gfns, Pfn pfn, Access granted) {
  for (Gfn gfn = gfns.begin; gfn < gfns.end; gfn += kEntries) {
    Node* above = BlockTableOf(gfn);
    uint64_t& word = above->words[IndexOf(gfn, 1)];
    if (word == 0) {
      word = WordOf(::new (Room()) Node(Node::Unwritten{}));
      ++above->used;
    }
    Node* node = ChildOf(word);
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
        Delete(child);
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

ExclusiveTable::Detached ExclusiveTable::Detach(GfnRange gibs) {
  Detached detached;
  for (Gfn gfn = gibs.begin; gfn < gibs.end; gfn = EntryRange(gfn, 2).end) {
    uint64_t& above = root_->words[IndexOf(gfn, 3)];
    if (above == 0) continue;
    uint64_t& word = ChildOf(above)->words[IndexOf(gfn, 2)];
    if (word == 0) continue;
    detached.roots_.push_back(ChildOf(word));
    word = 0;
    --ChildOf(above)->used;
  }
  return detached;
}

void ExclusiveTable::FreeDetached(const Detached& detached) {
  for (Node* root : detached.roots_) Free(root, 1);
}

Pte ExclusiveTable::Lookup(Gfn gfn) const {
  const Node* node = root_;
  for (unsigned level = kLevels - 1; level > 0; --level) {
    const uint64_t word = node->words[IndexOf(gfn, level)];
    if (word == 0) return Pte();
    node = ChildOf(word);
  }
  return Pte(node->words[IndexOf(gfn, 0)]);
}

}  // namespace underfoot::bench
