#include "vmm/devices/virtio/backend.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

namespace underfoot::virtio {
namespace {

// As many as a chain of Linux's block driver has.
constexpr size_t kMostPieces = 256;

}  // namespace

void Backend::CopyConfig(std::span<const std::byte> config, uint64_t offset,
                         std::span<std::byte> data) {
  if (offset >= config.size()) return;
  std::memcpy(data.data(), &config[offset],
              std::min<uint64_t>(data.size(), config.size() - offset));
}

bool Request::ReadFromGuest(uint64_t offset, std::span<std::byte> bytes) {
  BeforeWait();
  return ForEachBuffer(
      chain_.readable, offset, bytes.size(), [&](Gpa gpa, uint64_t done, uint64_t here) {
        return worker_.access.Read(worker_.reader, gpa, bytes.subspan(done, here)).ok();
      });
}

bool Request::WriteToGuest(uint64_t offset, std::span<const std::byte> bytes) {
  BeforeWait();
  return ForEachBuffer(
      chain_.writable, offset, bytes.size(), [&](Gpa gpa, uint64_t done, uint64_t here) {
        return worker_.access.Write(worker_.reader, gpa, bytes.subspan(done, here)).ok();
      });
}

// The buffers may be scattered. The announcement covers all pages from the first to the last of them:
// a bracket between two buffers causes a needless repetition, and no wrong byte.
bool Request::TryAnnounced(uint64_t offset, uint64_t bytes, SystemCall call) {
  BeforeWait();
  std::array<Buffer, kMostPieces> pieces;
  size_t count = 0;
  GfnRange pages{{UINT64_MAX}, {0}};
  const bool fits =
      ForEachBuffer(chain_.writable, offset, bytes, [&](Gpa gpa, uint64_t, uint64_t here) {
        if (count == pieces.size()) return false;
        const GfnRange touched{GfnOf(gpa), GfnOf(gpa + (here - 1)) + 1};
        pages = {std::min(pages.begin, touched.begin), std::max(pages.end, touched.end)};
        pieces[count++] = {gpa, here};
        // The system call would fault the pages in too, but one at a time.
        if (worker_.access.AreMapped(worker_.reader, touched)) return true;
        return worker_.mmu.range_faults()
                   .FaultIn(worker_.reader, touched, Access::kWrite)
                   .outcome == FaultInOutcome::kMapped;
      });
  if (!fits) return false;
  const std::optional<Hva> hva = worker_.direct.TryAnnounce(pages);
  if (!hva.has_value()) return false;
  // A block that is unplugged from here on is busy until the request is withdrawn.
  if (!worker_.access.IsRam(pages)) {
    static_cast<void>(worker_.direct.Withdraw());
    return false;
  }
  std::array<iovec, kMostPieces> guest;
  for (size_t i = 0; i < count; ++i) {
    guest[i] = {PointerOf(*hva + (pieces[i].gpa - GpaOf(pages.begin))), pieces[i].bytes};
  }
  const ssize_t moved = call(std::span(guest).first(count));
  const bool whole =
      worker_.direct.Withdraw() && moved >= 0 && static_cast<uint64_t>(moved) == bytes;
  // After the last byte: a collection that took the marks of the faults above may have come before
  // the bytes. Also where the call has failed: the kernel may have written a part, and the repetition
  // may fail before it writes anything.
  bool noted = true;
  for (const Buffer& piece : std::span(pieces).first(count)) {
    noted = worker_.access.NoteWritten(worker_.reader, piece.gpa, piece.bytes).ok() && noted;
  }
  if (!whole || !noted) {
    counters().direct_again.Add();
    return false;
  }
  counters().direct.Add();
  return true;
}

}  // namespace underfoot::virtio
