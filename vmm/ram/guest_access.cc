#include "vmm/ram/guest_access.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>

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

absl::Status ComesNoMore(Hva hva) {
  return absl::OutOfRangeError(
      absl::StrFormat("hva 0x%x: guest memory has gone, the machine has ended", hva.value));
}

// Cuts an access at page boundaries.
template <class Part>
absl::Status ForEachPage(Gpa gpa, size_t bytes, const Part& part) {
  for (size_t done = 0; done < bytes;) {
    const size_t here = std::min<size_t>(bytes - done, kPageSize - OffsetInPage(gpa + done));
    if (absl::Status status = part(gpa + done, done, here); !status.ok()) return status;
    done += here;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status GuestAccess::Read(Reader& reader, Gpa gpa, std::span<std::byte> bytes) {
  return ForEachPage(gpa, bytes.size(), [&](Gpa at, size_t done, size_t here) {
    return OnPage(reader, at, here, Access::kRead,
                  [&](std::byte* guest) { CopyFromGuest(&bytes[done], guest, here); });
  });
}

absl::Status GuestAccess::Write(Reader& reader, Gpa gpa, std::span<const std::byte> bytes) {
  return ForEachPage(gpa, bytes.size(), [&](Gpa at, size_t done, size_t here) {
    return OnPage(reader, at, here, Access::kWrite,
                  [&](std::byte* guest) { CopyToGuest(guest, &bytes[done], here); });
  });
}

absl::Status GuestAccess::NoteWritten(Reader& reader, Gpa gpa, uint64_t bytes) {
  return ForEachPage(gpa, bytes, [&](Gpa at, size_t, size_t here) {
    return OnPage(reader, at, here, Access::kWrite, [](std::byte*) {});
  });
}

template <class Copy>
absl::Status GuestAccess::OnPage(Reader& reader, Gpa gpa, size_t bytes, Access access,
                                 const Copy& copy) {
  const std::optional<Hva> hva = memory_.HvaOf(gpa);
  if (!hva.has_value()) {
    return absl::OutOfRangeError(absl::StrFormat("access of %d bytes at gpa 0x%x: RAM ends at 0x%x",
                                                 bytes, gpa.value, memory_.bytes()));
  }
  for (;;) {
    if (const TranslatedPage page = mmu_.Translate(reader, gpa, access)) {
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
        return ByHva(reader, *hva, access, copy);
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
absl::Status GuestAccess::ByHva(Reader& reader, Hva hva, Access access, const Copy& copy) {
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
