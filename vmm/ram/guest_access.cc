#include "vmm/ram/guest_access.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <optional>

#include "absl/strings/str_format.h"
#include "mmu/page_in_retries.h"
#include "vmm/hooks/calls.h"

namespace underfoot {
namespace {

bool IsWord(const std::byte* guest, size_t bytes) {
  return bytes == sizeof(uint64_t) && OffsetInPage(HvaOf(guest)) % sizeof(uint64_t) == 0;
}

// The guest works on the same bytes: a word is moved in one access, relaxed, since what orders the
// guest's words is the guest's own protocol.
void CopyFromGuest(std::byte* to, std::byte* guest, size_t bytes) {
  if (!IsWord(guest, bytes)) {
    std::memcpy(to, guest, bytes);
    return;
  }
  const uint64_t word =
      std::atomic_ref(*reinterpret_cast<uint64_t*>(guest)).load(std::memory_order::relaxed);
  std::memcpy(to, &word, sizeof(word));
}

void CopyToGuest(std::byte* guest, const std::byte* from, size_t bytes) {
  if (!IsWord(guest, bytes)) {
    std::memcpy(guest, from, bytes);
    return;
  }
  uint64_t word = 0;
  std::memcpy(&word, from, sizeof(word));
  std::atomic_ref(*reinterpret_cast<uint64_t*>(guest)).store(word, std::memory_order::relaxed);
}

// What it waits for may be a userfaultfd event that cannot be read for want of a descriptor.
absl::Status ComesLater(Hva hva) {
  return absl::UnavailableError(
      absl::StrFormat("the page at hva 0x%x cannot be brought in now: the host's memory is being "
                      "changed; try again later",
                      PageOf(hva).value));
}

absl::Status IsNoRam(const GuestMemory& memory, Gpa gpa, size_t bytes) {
  if (gpa.value < memory.bytes()) {
    return absl::OutOfRangeError(
        absl::StrFormat("access of %d bytes at gpa 0x%x: its block of hot-pluggable memory is not "
                        "plugged",
                        bytes, gpa.value));
  }
  return absl::OutOfRangeError(absl::StrFormat("access of %d bytes at gpa 0x%x: RAM ends at 0x%x",
                                               bytes, gpa.value, memory.bytes()));
}

absl::Status ComesNoMore(Hva hva) {
  return absl::OutOfRangeError(
      absl::StrFormat("hva 0x%x: guest memory has gone, the machine has ended", hva.value));
}

}  // namespace

// Cuts the copies at page boundaries, and uses as many pieces in one section as it may contain. `use`
// gets the guest's side of a piece, the VMM's side, and the size.
template <class Use>
GuestAccess::Progress GuestAccess::TryInSections(Reader& reader, std::span<const GuestCopy> copies,
                                                 const Use& use) {
  // Neither is initialized as a whole: a section often has few pieces.
  alignas(PagePiece) std::array<std::byte, kSectionPages * sizeof(PagePiece)> room_of_pieces;
  PagePiece* const pieces = reinterpret_cast<PagePiece*>(room_of_pieces.data());
  std::array<Piece, kSectionPages> cut;
  Progress progress;
  while (progress.copies < copies.size()) {
    size_t next = progress.copies;
    size_t done = progress.bytes;  // of the next copy
    size_t count = 0;
    size_t room = kSectionBytes;
    GfnRange pages{{UINT64_MAX}, {0}};
    for (; next < copies.size() && count < kSectionPages && room != 0; ++count) {
      const GuestCopy& copy = copies[next];
      const Gpa gpa = copy.gpa + done;
      const size_t left = copy.bytes - done;
      const size_t here = std::min(left, std::min(kPageSize - OffsetInPage(gpa), room));
      const Gfn gfn = GfnOf(gpa);
      if (!pages.Contains(gfn)) {
        const GfnRange with{std::min(pages.begin, gfn), std::max(pages.end, gfn + 1)};
        if (with.size() > kSectionRange) break;
        pages = with;
      }
      std::construct_at(pieces + count, PagePiece{gpa, copy.access});
      cut[count] = {copy.own + done, here};
      room -= here;
      done += here;
      if (here != left) continue;
      ++next;
      done = 0;
    }
    const std::optional<Hva> hva = memory_.HvaOf(GpaOf(pages.begin));
    if (!hva.has_value()) return progress;
    // The range is a guess: the memory of a slot that is elsewhere now is not announced, and is not
    // used.
    const RangeSection section(reader, PageRangeOf(*hva, pages.size()));
    size_t found = mmu_.Translate(section, std::span(pieces, count));
    // In the section: see hotplug_blocks.h. As a rule there is no gap of unplugged memory between pieces.
    if (!IsRam(pages)) {
      size_t usable = 0;
      while (usable < found && memory_.IsRam(pieces[usable].gpa, cut[usable].bytes)) ++usable;
      found = usable;
    }
    for (size_t i = 0; i < found; ++i) {
      use(pieces[i].data, cut[i].own, cut[i].bytes, pieces[i].access);
    }
    if (found == count) {
      progress = {next, done};
      continue;
    }
    for (size_t i = 0; i < found; ++i) {
      progress.bytes += cut[i].bytes;
      if (progress.bytes == copies[progress.copies].bytes) progress = {progress.copies + 1, 0};
    }
    return progress;
  }
  return progress;
}

size_t GuestAccess::TryCopy(Reader& reader, std::span<const GuestCopy> copies) {
  return TryInSections(reader, copies,
                       [](std::byte* guest, std::byte* own, size_t bytes, Access access) {
                         if (access == Access::kWrite) {
                           CopyToGuest(guest, own, bytes);
                         } else {
                           CopyFromGuest(own, guest, bytes);
                         }
                       })
      .copies;
}

// In sections of several pages as far as there are translations; a page without one is brought in and
// used by itself.
template <class Use>
absl::Status GuestAccess::OnPages(Reader& reader, GuestCopy copy, const Use& use) {
  while (copy.bytes != 0) {
    if (OffsetInPage(copy.gpa) + copy.bytes > kPageSize) {
      const Progress progress = TryInSections(reader, {&copy, 1}, use);
      if (progress.copies == 1) return absl::OkStatus();
      copy.Advance(progress.bytes);
    }
    const size_t here = std::min<size_t>(copy.bytes, kPageSize - OffsetInPage(copy.gpa));
    if (absl::Status status =
            OnPage(reader, copy.gpa, here, copy.access,
                   [&](std::byte* guest) { use(guest, copy.own, here, copy.access); });
        !status.ok()) {
      return status;
    }
    copy.Advance(here);
  }
  return absl::OkStatus();
}

absl::Status GuestAccess::Read(Reader& reader, Gpa gpa, std::span<std::byte> bytes) {
  return OnPages(reader, {gpa, Access::kRead, bytes.data(), bytes.size()},
                 [](std::byte* guest, std::byte* own, size_t here, Access) {
                   CopyFromGuest(own, guest, here);
                 });
}

absl::Status GuestAccess::Write(Reader& reader, Gpa gpa, std::span<const std::byte> bytes) {
  // For a write, the copies only read from here.
  std::byte* const own = const_cast<std::byte*>(bytes.data());
  return OnPages(reader, {gpa, Access::kWrite, own, bytes.size()},
                 [](std::byte* guest, std::byte* from, size_t here, Access) {
                   CopyToGuest(guest, from, here);
                 });
}

// Returns whether the page is in a block that has one leaf now, or a table with the page in it.
bool GuestAccess::BringInBlock(Reader& reader, Gfn gfn) {
  for (unsigned level = memory_.huge_pages() == HugePages::k1G ? 2 : 1; level > 0; --level) {
    if (mmu_.range_faults().HandleFault(reader, gfn, level, Access::kRead, nullptr).has_value()) {
      return true;
    }
  }
  return false;
}

void GuestAccess::BringIn(Reader& reader, GfnRange gfns, Around around) {
  const bool blocks = around == Around::kBlocks && memory_.huge_pages() != HugePages::kOff;
  while (!gfns.empty()) {
    // Neither a window nor a block goes beyond its memslot or what one table maps.
    GfnRange some = gfns.Intersect(EntryRange(gfns.begin, 1));
    if (const std::optional<Memslot> slot = mmu_.memslots().Find(some.begin)) {
      some = some.Intersect(slot->gfns);
    }
    gfns.begin = some.end;
    if (!memory_.IsRam(GpaOf(some.begin), some.size() << kPageShift)) continue;
    if (blocks && BringInBlock(reader, some.begin)) continue;
    static_cast<void>(mmu_.faults_around().BringIn(reader, some));
  }
}

uint64_t GuestAccess::TryMarkWritten(Reader& reader, GfnRange gfns) {
  Gfn next = gfns.begin;
  while (next < gfns.end) {
    const GfnRange some{next, std::min(gfns.end, next + kSectionRange)};
    const std::optional<Hva> hva = memory_.HvaOf(GpaOf(some.begin));
    if (!hva.has_value()) break;
    const RangeSection section(reader, PageRangeOf(*hva, some.size()));
    // In the section: see hotplug_blocks.h.
    if (!IsRam(some)) break;
    const uint64_t marked = mmu_.MarkUsed(section, some, Access::kWrite);
    next += marked;
    if (marked == 0) break;
  }
  return next - gfns.begin;
}

absl::Status GuestAccess::NoteWritten(Reader& reader, Gpa gpa, uint64_t bytes) {
  if (bytes == 0) return absl::OkStatus();
  const GfnRange gfns{GfnOf(gpa), GfnOf(gpa + (bytes - 1)) + 1};
  for (Gfn next = gfns.begin;;) {
    next += TryMarkWritten(reader, {next, gfns.end});
    if (next == gfns.end) return absl::OkStatus();
    // A page without a translation is brought in and marked by itself.
    if (absl::Status status =
            OnPage(reader, GpaOf(next), kPageSize, Access::kWrite, [](std::byte*) {});
        !status.ok()) {
      return status;
    }
    next += 1;
  }
}

template <class Copy>
absl::Status GuestAccess::OnPage(Reader& reader, Gpa gpa, size_t bytes, Access access,
                                 const Copy& copy) {
  const std::optional<Hva> hva = memory_.HvaOf(gpa);
  if (!hva.has_value()) return IsNoRam(memory_, gpa, bytes);
  for (;;) {
    // Before the page is brought in, and again in the section.
    if (!memory_.IsRam(gpa, bytes)) return IsNoRam(memory_, gpa, bytes);
    if (const TranslatedPage page = mmu_.Translate(reader, gpa, access)) {
      if (!memory_.IsRam(gpa, bytes)) continue;
      copy(page.data());
      return absl::OkStatus();
    }
    switch (mmu_.faults().FaultIn(reader, GfnOf(gpa), access).outcome) {
      case FaultInOutcome::kMapped:
        continue;
      case FaultInOutcome::kReadOnly:
        return absl::PermissionDeniedError(absl::StrFormat(
            "write of %d bytes at gpa 0x%x: its memslot is read-only", bytes, gpa.value));
      case FaultInOutcome::kNoMemslot:
      case FaultInOutcome::kRemovalPending:
        return ByHva(reader, gpa, *hva, access, copy);
      case FaultInOutcome::kAgain:
        return ComesLater(*hva);
      case FaultInOutcome::kFailed:
        return absl::UnavailableError(absl::StrFormat(
            "gpa 0x%x: its page at hva 0x%x cannot be brought in", gpa.value, hva->value));
    }
  }
}

// The page is brought in and looked at before the section begins, since a section is never held
// across a page-in or a system call (R2). A bracket that has begun since then may have taken the
// page:
//
//   this thread                                    a bracket over the page
//   count of brackets, none in flight
//   page-in, look: the page is present
//   enter the section                              in flight, then counted
//   in flight? the same count? copy                wait for the readers, then the page goes
//
// Either the bracket finds the section, or this thread finds the bracket in flight, or, if the
// bracket is over already, counted.
template <class Copy>
absl::Status GuestAccess::ByHva(Reader& reader, Gpa gpa, Hva hva, Access access, const Copy& copy) {
  const HvaRange page = PageRangeOf(hva);
  for (PageInRetries retries(mmu_.page_in_tries());;) {
    const uint64_t begins = mmu_.notifier().begun();
    if (const auto away = mmu_.in_flight().FindOverlap(page); away.has_value()) {
      mmu_.in_flight().WaitForEnd(*away);
      continue;
    }
    if (memory_.gone()) return ComesNoMore(hva);
    if (!IsUsable(page.begin, access)) {
      const PageInOutcome in = mmu_.page_source().PageIn(page.begin, access, nullptr).outcome;
      if (in == PageInOutcome::kFailed && mmu_.notifier().begun() != begins) {
        continue;  // its mapping may have been away
      }
      if (in == PageInOutcome::kFailed) {
        return absl::UnavailableError(
            absl::StrFormat("the page at hva 0x%x cannot be brought in", page.begin.value));
      }
      if (in == PageInOutcome::kAgain) {
        if (!retries.Pause()) return ComesLater(page.begin);
        continue;
      }
      if (!IsUsable(page.begin, access)) continue;
    }
    std::optional<InFlightRanges::Bracket> bracket;
    {
      DirectSection section(reader, ReaderKey::Pack(page));
      bracket = mmu_.in_flight().FindOverlap(page);
      const bool undisturbed = !bracket.has_value() && mmu_.notifier().begun() == begins;
      if (!memory_.IsRam(gpa, 1)) return IsNoRam(memory_, gpa, 1);
      if (undisturbed) {
        // In the section: a collection that takes the mark waits for the copy.
        if (access == Access::kWrite && memory_.log() != nullptr) memory_.log()->Mark(page);
        copy(static_cast<std::byte*>(PointerOf(hva)));
        return absl::OkStatus();
      }
    }
    if (bracket.has_value()) mmu_.in_flight().WaitForEnd(*bracket);
  }
}

// Whether an access to the page takes no fault that userfaultfd has to serve. A page in swap space
// is read back first; before Linux 5.14, which has no such advice, the access itself does that.
bool GuestAccess::IsUsable(Hva page, Access access) const {
  const PagemapEntry entry = pagemap_.Read(page);
  if (!entry.swapped) return entry.present && (access == Access::kRead || !entry.uffd_wp);
  static_cast<void>(hooks::Madvise(PointerOf(page), kPageSize, MADV_POPULATE_READ));
  return true;
}

}  // namespace underfoot
