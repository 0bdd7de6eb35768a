#include "vmm/coherent/coherent_ram.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_format.h"
#include "mmu/base/check.h"
#include "vmm/base/cpus.h"
#include "vmm/evidence/event_reads.h"
#include "vmm/sources/kernel/kvm_tracepoints.h"

namespace underfoot {
namespace {

// Pages; see GuestPageSourceOptions::head_start. Several handlers run on the CPUs of their vCPUs.
constexpr uint64_t kHeadStart = 8;

}  // namespace

unsigned FaultHandlersForThisHost() {
  return static_cast<unsigned>(std::min<size_t>(AllowedCpus().size(), kMostEventReaders));
}

absl::StatusOr<std::unique_ptr<CoherentRam>> CoherentRam::Create(
    const CoherentRamOptions& options) {
  if (options.fault_handlers == 0 || options.fault_handlers > kMostEventReaders) {
    return absl::InvalidArgumentError(absl::StrFormat("fault_handlers: %u must be from 1 to %u",
                                                      options.fault_handlers, kMostEventReaders));
  }
  // Declared first, so that an exception closes userfaultfd before it unmaps the memory.
  absl::StatusOr<std::unique_ptr<GuestMemory>> memory;
  absl::StatusOr<Userfaultfd> uffd = OpenUserfaultfd(options);
  if (!uffd.ok()) return std::move(uffd).status();
  absl::StatusOr<Pagemap> pagemap = Pagemap::Open();
  if (!pagemap.ok()) return std::move(pagemap).status();
  memory = GuestMemory::Create(options.bytes, options.backing, options.huge_pages, *uffd,
                               options.log_writes, options.use, options.hotplug_bytes);
  if (!memory.ok()) return std::move(memory).status();
  absl::StatusOr<HugePageSources> huge_pages = MakeHugePageSources(**memory, *uffd);
  if (!huge_pages.ok()) return std::move(huge_pages).status();
  std::unique_ptr<CoherentRam> ram(new CoherentRam(options, *std::move(memory), *std::move(uffd),
                                                   *std::move(pagemap), *std::move(huge_pages)));
  const GuestMemory& attached = ram->memory();
  if (absl::Status on = ram->hooks_.Attach(attached.hvas(), attached.backing(), attached.fd(), 0,
                                           attached.huge_pages());
      !on.ok()) {
    return on;
  }
  return ram;
}

absl::StatusOr<Userfaultfd> CoherentRam::OpenUserfaultfd(const CoherentRamOptions& options) {
  UffdOptions wanted = options.uffd;
  wanted.page_bytes = HostPageBytes(options.huge_pages);
  wanted.move =
      wanted.move || (options.huge_pages == HugePages::kThp && options.backing == Backing::kAnon);
  absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Open(wanted);
  if (options.uffd.move == wanted.move || !absl::IsUnimplemented(uffd.status())) return uffd;
  // Before Linux 6.8 private memory comes in as small pages, and the host may make them huge.
  wanted.move = false;
  return Userfaultfd::Open(wanted);
}

absl::StatusOr<CoherentRam::HugePageSources> CoherentRam::MakeHugePageSources(
    const GuestMemory& memory, const Userfaultfd& uffd) {
  HugePageSources sources;
  if (memory.huge_pages() != HugePages::kThp) return sources;
  if (memory.backing() == Backing::kMemfd) {
    absl::StatusOr<std::unique_ptr<FileHoles>> holes = FileHoles::Create(memory);
    if (!holes.ok()) return std::move(holes).status();
    sources.holes = *std::move(holes);
  } else if (uffd.moves()) {
    absl::StatusOr<std::unique_ptr<HugePagePool>> pool = HugePagePool::Create();
    if (!pool.ok()) return std::move(pool).status();
    sources.pool = *std::move(pool);
  }
  return sources;
}

CoherentRam::CoherentRam(const CoherentRamOptions& options, std::unique_ptr<GuestMemory> memory,
                         Userfaultfd uffd, Pagemap pagemap, HugePageSources huge_pages)
    : memory_(std::move(memory)),
      uffd_(std::move(uffd)),
      pagemap_(std::move(pagemap)),
      events_(options.event_sink),
      removals_(options.removal_bound),
      removal_records_(memory_->hvas()),
      foreign_changes_(memory_->hvas()),
      lazy_frees_(options.backing == Backing::kAnon ? memory_->hvas() : HvaRange()),
      huge_pages_(std::move(huge_pages)),
      page_source_(uffd_, pagemap_, removals_, options.backing,
                   {.announcements = options.kernel_events ? &own_changes_ : nullptr,
                    .touch_sink = options.touch_sink,
                    .head_start = options.fault_handlers == 1 ? kHeadStart : 0,
                    .log = memory_->log(),
                    .huge_pages = options.huge_pages,
                    .pool = huge_pages_.pool.get(),
                    .holes = huge_pages_.holes.get()}),
      mmu_(page_source_, options.mmu),
      kernel_(
          mmu_, own_changes_, memory_->hvas(),
          [ram = memory_->hvas()]() -> absl::StatusOr<std::unique_ptr<KernelRecordSource>> {
            return KvmTracepoints::Open(ram);
          },
          KernelOptions(options)),
      hooks_(mmu_.notifier(), uffd_, expected_, &events_, &lazy_frees_),
      access_(mmu_, *memory_, pagemap_),
      monitor_(mmu_, uffd_, pagemap_, page_source_, expected_, removals_,
               {.sink = &events_,
                .lazy = &lazy_frees_,
                .removal_records = options.kernel_events ? &removal_records_ : nullptr,
                .ram = memory_->hvas(),
                .backing = options.backing,
                .huge_pages = options.huge_pages},
               {.fault_around = options.fault_around, .handlers = options.fault_handlers}) {}

KernelNotifierOptions CoherentRam::KernelOptions(const CoherentRamOptions& options) {
  KernelNotifierOptions kernel{.removal_records = &removal_records_,
                               .foreign_changes = &foreign_changes_,
                               .sink = &events_,
                               .young_sink = options.touch_sink,
                               .open_sink = options.kernel_open_sink};
  // The content of a memfd may go after the zap, by MADV_REMOVE, which does not hold mmap_lock: a
  // record completes nothing there.
  if (options.backing == Backing::kAnon && mmap_barrier_.valid()) {
    kernel.removals = &removals_;
    kernel.wait_for_mmap_lock = [this] { mmap_barrier_.Wait(); };
  }
  return kernel;
}

absl::Status CoherentRam::Start() {
  if (huge_pages_.pool != nullptr) {
    if (absl::Status started = huge_pages_.pool->Start(); !started.ok()) return started;
  }
  return monitor_.Start();
}

CoherentRam::~CoherentRam() {
  const HvaRange ram = memory_->hvas();
  UNDERFOOT_CHECK(!mmu_.direct_requests().AnnouncedOver(ram),
                  "guest memory goes under a system call that may still write to it",
                  ram.begin.value, ram.size());
  Stop();
}

void CoherentRam::LeaveReserved() {
  // A slot that is away already has no translations. Without memory for the update a slot stays, and
  // a worker that uses it finds that RAM has gone.
  for (const RamSlot& slot : memory_->slots()) static_cast<void>(mmu_.DeleteMemslot(slot.id));
  const InvalidationScope bracket(mmu_.notifier(), {memory_->hvas(), InvalidationKind::kUnmap});
  memory_->LeaveReserved();
  uffd_.Wake(memory_->hvas());
}

void CoherentRam::Stop() {
  kernel_.Stop();
  monitor_.Stop();
  if (huge_pages_.pool != nullptr) huge_pages_.pool->Stop();
}

}  // namespace underfoot
