// Other projects' programs and libraries that do the same work, in turns with ours: QEMU's microvm, rust-vmm's
// vm-memory, the KVM selftests, and the memory hooks of UCX. peers/prepare.sh builds them; without them the
// comparisons are skipped. The boot of Linux needs a stock KVM, which `./dev bench linux` brings with it.

#include <dlfcn.h>

#include <array>
#include <atomic>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "mmu/base/check.h"
#include "mmu/base/rcu.h"
#include "mmu/mmu.h"
#include "tests/bench/anonymous_memory.h"
#include "tests/bench/bench.h"
#include "tests/bench/child_output.h"
#include "tests/bench/cpus.h"
#include "tests/bench/resident_vm.h"
#include "tests/bench/touched_ram.h"
#include "tests/bench/touching_guest.h"

namespace underfoot::bench {
namespace {

using Command = std::vector<std::string>;

// Where prepare.sh has put the peers.
class Peers {
 public:
  explicit Peers(std::string folder) : folder_(std::move(folder)) {}

  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  // Empty, or why the comparisons with these files are skipped.
  std::string WhyNot(std::initializer_list<const char*> names) const {
    if (folder_.empty()) return "./dev bench peers builds what it is compared with";
    for (const char* name : names) {
      if (!std::filesystem::exists(Path(name))) {
        return absl::StrCat("there is no ", Path(name), "; ", Path(name), ".log says why");
      }
    }
    return "";
  }

 private:
  const std::string folder_;
};

// What a child printed behind `label`, as a number.
absl::StatusOr<double> NumberBehind(const Command& command, std::string_view label) {
  const absl::StatusOr<ChildRun> run = RunChild(command, label);
  if (!run.ok()) return run.status();
  std::string_view text = run->output;
  text.remove_prefix(text.find(label) + label.size());
  text = text.substr(0, text.find_first_of("s\n"));
  double number = 0;
  if (!absl::SimpleAtod(std::string(text), &number)) {
    return absl::UnavailableError(
        absl::StrCat(command[0], " printed no number behind '", std::string(label), "'"));
  }
  return number;
}

// A variant whose turn is a child: `figure` makes a figure of it. A child that fails makes no sample.
struct Child {
  std::string name;
  std::function<absl::StatusOr<double>()> figure;
  std::optional<Goal> goal = {};
};

Variant OfChild(Child child) {
  return {.name = std::move(child.name),
          .run =
              [figure = std::move(child.figure)](Turn& turn) {
                if (const absl::StatusOr<double> made = figure(); made.ok()) turn.Record(*made);
              },
          .goal = child.goal};
}

// Asks each variant of children once, so that a peer that does not run here is named with its reason.
void CompareChildren(Bench& bench, Comparison comparison, std::vector<Child> children) {
  for (Child& child : children) {
    if (const absl::StatusOr<double> once = child.figure(); !once.ok()) {
      return bench.Skip(comparison.name,
                        absl::StrCat(child.name, ": ", std::string(once.status().message())));
    }
    comparison.variants.push_back(OfChild(std::move(child)));
  }
  bench.Compare(std::move(comparison));
}

// Machines of 32 MiB with one vCPU, until a byte has come from the guest's serial port.
void CompareStarts(Bench& bench, const Peers& peers) {
  constexpr char kFirstByte[] = "peers.first_byte";
  constexpr char kMemory[] = "peers.memory";
  if (!bench.Wants(kFirstByte) && !bench.Wants(kMemory)) return;
  if (const std::string why = peers.WhyNot({"first_byte.rom"}); !why.empty()) {
    bench.Skip(kFirstByte, why);
    return bench.Skip(kMemory, why);
  }
  struct Machine {
    std::string name;
    Command command;
    std::string marker;
  };
  const std::vector<Machine> machines = {
      {"minimal VMM", {Sibling("minimal_first_byte")}, "H"},
      {"underfoot run",
       {Sibling("underfoot"), "run", "--guest", "hello", "--vcpus", "1", "--memory", "32M",
        "--churn", "off", "--duration", "5s"},
       "[vcpu 0]"},
      {"QEMU microvm",
       {"/usr/bin/qemu-system-x86_64",
        "-M",
        "microvm,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=on,auto-kernel-cmdline=off",
        "-accel",
        "kvm",
        "-cpu",
        "host,arch-capabilities=off",  // KVM offers that MSR on some AMD hosts and refuses its value
        "-m",
        "32M",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-monitor",
        "none",
        "-bios",
        peers.Path("first_byte.rom"),
        "-no-reboot",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=1"},
       "H"}};
  std::vector<Child> times;
  std::vector<Child> memory;
  for (const Machine& machine : machines) {
    times.push_back(
        {machine.name, [machine] { return NsUntilOutput(machine.command, machine.marker); }});
    if (machine.name == "minimal VMM") continue;  // it ends with its byte
    memory.push_back({machine.name, [machine]() -> absl::StatusOr<double> {
                        const absl::StatusOr<ChildRun> run =
                            RunChild(machine.command, machine.marker);
                        if (!run.ok()) return run.status();
                        return run->peak_bytes;
                      }});
  }
  CompareChildren(bench,
                  {.name = kFirstByte,
                   .what = "from before the fork to the first byte of the guest",
                   .variants = {},
                   .rounds = 20},
                  std::move(times));
  CompareChildren(bench,
                  {.name = kMemory,
                   .what = "resident memory of that process, at its peak until then",
                   .variants = {},
                   .rounds = 4,
                   .unit = "bytes"},
                  std::move(memory));
}

// Boots of one kernel with one initial RAM disk (tests/linux/first_line_init.sh), until its first process has
// written a line to the serial port. A microvm has no clock chip under KVM unless it is asked for one, but its
// ACPI tables do not say so, and Linux waits for it: QEMU has a turn with one too. Without ACPI the kernel
// would find no interrupt of the serial port.
void CompareLinuxBoots(Bench& bench, const Peers& peers) {
  constexpr char kName[] = "peers.linux_first_line";
  if (!bench.Wants(kName)) return;
  if (!peers.WhyNot({"linux/vmlinuz", "linux/initrd", "linux/qemu-system-x86_64"}).empty()) {
    return bench.Skip(kName, "./dev bench linux measures it");
  }
  const std::string kernel = peers.Path("linux/vmlinuz");
  const std::string initrd = peers.Path("linux/initrd");
  // A software CPU has no XSETBV for guests of guests.
  const std::string append = "quiet noxsave";
  const auto boot = [](Command command) {
    // One that hangs makes no sample.
    const Command limit = {"/bin/timeout", "-s", "KILL", "120"};
    command.insert(command.begin(), limit.begin(), limit.end());
    return
        [command = std::move(command)] { return NsUntilOutput(command, "guest: the first line"); };
  };
  // clang-format off
  const auto qemu = [&](const std::string& machine) {
    return boot({peers.Path("linux/qemu-system-x86_64"), "-L", peers.Path("linux/firmware"),
                 "-M", machine, "-accel", "kvm", "-cpu", "host", "-m", "256M",
                 "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none",
                 "-serial", "stdio", "-kernel", kernel, "-initrd", initrd,
                 "-append", "console=ttyS0 reboot=t panic=-1 " + append});
  };
  const auto ours = [&](const std::string& pages) {
    return boot({Sibling("underfoot"), "run", "--kernel", kernel, "--initrd", initrd, "--append", append,
                 "--vcpus", "1", "--memory", "256M", "--huge-pages", pages, "--churn", "off"});
  };
  // clang-format on
  CompareChildren(
      bench,
      {.name = kName,
       .what = "from before the fork to the first line of the first process of Debian's Linux",
       .variants = {},
       .rounds = 7},
      {{"QEMU microvm", qemu("microvm,pit=off,pic=off")},
       {"QEMU microvm with a clock chip (rtc=on)", qemu("microvm,pit=off,pic=off,rtc=on")},
       {"underfoot run", ours("auto"), Goal{.at_most = 0.5}},
       {"underfoot run --huge-pages off", ours("off")}});
}

// The functions of vm_memory.rs.
class VmMemory {
 public:
  // nullptr: the library cannot be loaded, or its memory cannot be mapped.
  static std::shared_ptr<VmMemory> Open(const std::string& library,
                                        const std::vector<uint64_t>& starts, size_t bytes) {
    auto self = std::make_shared<VmMemory>();
    void* const handle = dlopen(library.c_str(), RTLD_NOW);
    if (handle == nullptr) return nullptr;
    const auto find = [handle](const char* name) { return dlsym(handle, name); };
    const auto open =
        reinterpret_cast<void* (*)(const uint64_t*, size_t, size_t)>(find("peer_open"));
    self->close_ = reinterpret_cast<void (*)(void*)>(find("peer_close"));
    self->find_ = reinterpret_cast<Loop>(find("peer_find"));
    self->read_ = reinterpret_cast<Loop>(find("peer_read"));
    if (open == nullptr || self->close_ == nullptr || self->find_ == nullptr ||
        self->read_ == nullptr) {
      return nullptr;
    }
    self->memory_ = open(starts.data(), starts.size(), bytes);
    return self->memory_ != nullptr ? self : nullptr;
  }
  VmMemory() = default;
  ~VmMemory() {
    if (memory_ != nullptr) close_(memory_);
  }
  VmMemory(const VmMemory&) = delete;
  VmMemory& operator=(const VmMemory&) = delete;

  size_t Find(const std::vector<uint64_t>& gpas) const {
    return find_(memory_, gpas.data(), gpas.size());
  }
  size_t Read(const std::vector<uint64_t>& gpas) const {
    return read_(memory_, gpas.data(), gpas.size());
  }

 private:
  using Loop = size_t (*)(const void*, const uint64_t*, size_t);
  void (*close_)(void*) = nullptr;
  Loop find_ = nullptr;
  Loop read_ = nullptr;
  void* memory_ = nullptr;
};

// One operation of a turn is one look-up or read; each must succeed.
Variant Reading(std::string name, const std::vector<uint64_t>& gpas, std::function<size_t()> all) {
  return {.name = std::move(name),
          .run =
              [&gpas, all = std::move(all)](Turn& turn) {
                size_t done = 0;
                turn.Time(gpas.size(), [&] { done = all(); });
                UNDERFOOT_CHECK(done == gpas.size(), "a peer or ours did not find its memory", done,
                                gpas.size());
              },
          .goal = {}};
}

// Reads of guest memory at random addresses. vm-memory finds the region of an address and reads there: its memory
// must stay where it is. Ours finds the translation, and an invalidation waits for the read.
void CompareReads(Bench& bench, const Peers& peers, uint32_t slots) {
  constexpr uint64_t kReads = 100'000;
  constexpr uint64_t kSlotPages = 64;
  const std::string look_up = absl::StrCat("peers.look_up.", slots, "_slots");
  const std::string read = absl::StrCat("peers.read.", slots, "_slots");
  if (!bench.Wants(look_up) && !bench.Wants(read)) return;
  const std::string why = peers.WhyNot({"libvm_memory_peer.so"});
  if (!why.empty()) {
    bench.Skip(look_up, why);
    return bench.Skip(read, why);
  }
  // A hole of the same size behind each slot.
  ResidentPages pages(slots * kSlotPages);
  Mmu mmu(pages);
  std::vector<uint64_t> starts;
  for (uint32_t i = 0; i < slots; ++i) {
    const Gfn first{2 * kSlotPages * i};
    const absl::Status made =
        mmu.CreateMemslot({.id = i,
                           .gfns = {first, first + kSlotPages},
                           .hva = pages.hvas().begin + i * kSlotPages * kPageSize});
    UNDERFOOT_CHECK(made.ok(), "a benchmark's memslot was refused", i, slots);
    starts.push_back(GpaOf(first).value);
  }
  const auto theirs =
      VmMemory::Open(peers.Path("libvm_memory_peer.so"), starts, kSlotPages * kPageSize);
  if (theirs == nullptr) return bench.Skip(read, "libvm_memory_peer.so cannot be loaded");
  std::mt19937_64 numbers(bench.seed());
  std::vector<uint64_t> gpas(bench.Operations(kReads));
  for (uint64_t& gpa : gpas) {
    gpa = starts[numbers() % slots] + (numbers() % (kSlotPages * kPageSize / 8)) * 8;
  }
  Reader reader(mmu.readers());
  for (const uint64_t gpa : gpas) {
    const FaultInResult in = mmu.faults().FaultIn(reader, GfnOf(Gpa{gpa}), Access::kRead);
    UNDERFOOT_CHECK(in.outcome == FaultInOutcome::kMapped, "a benchmark's page was not mapped", gpa,
                    in.outcome);
  }
  bench.Compare(
      {.name = look_up,
       .what = "the memslot of a random guest address",
       .variants = {Reading("vm-memory, find_region", gpas, [&] { return theirs->Find(gpas); }),
                    Reading("ours, the memslot", gpas, [&] {
                      size_t found = 0;
                      const rcu::ReadScope scope;
                      const MemslotSet& set = mmu.memslots().Current();
                      for (const uint64_t gpa : gpas) {
                        if (set.Find(GfnOf(Gpa{gpa})) != nullptr) ++found;
                      }
                      return found;
                    })}});
  bench.Compare(
      {.name = read,
       .what = "8 bytes at a random guest address",
       .variants = {Reading("vm-memory, read_obj: memory never moves", gpas,
                            [&] { return theirs->Read(gpas); }),
                    Reading("ours, through stage-2: an invalidation waits for the read", gpas, [&] {
                      size_t done = 0;
                      for (const uint64_t gpa : gpas) {
                        const TranslatedPage page = mmu.Translate(reader, Gpa{gpa}, Access::kRead);
                        if (!page) continue;
                        KeepAlive(*reinterpret_cast<const uint64_t*>(page.data()));
                        ++done;
                      }
                      return done;
                    })}});
}

// Sequential first writes of one vCPU to 16 MiB. The vCPU of the selftest runs in ring 0, ours in ring 3: on a
// KVM that emulates ring 0 the selftest's instructions are most of its time.
void ComparePaging(Bench& bench, const Peers& peers) {
  constexpr char kName[] = "peers.demand_paging";
  if (!bench.Wants(kName)) return;
  if (const std::string why = peers.WhyNot({"demand_paging_test"}); !why.empty())
    return bench.Skip(kName, why);
  const auto selftest = [&](std::vector<std::string> more) {
    Command command = {peers.Path("demand_paging_test"), "-v", "1", "-b", "16M"};
    command.insert(command.end(), more.begin(), more.end());
    return [command]() -> absl::StatusOr<double> {
      const absl::StatusOr<double> seconds = NumberBehind(command, "Total guest execution time: ");
      if (!seconds.ok()) return seconds.status();
      return *seconds * 1e9 / static_cast<double>(kPages);
    };
  };
  Comparison comparison{
      .name = kName,
      .what = "a guest's first write to a page of private memory, one page after the other",
      .variants = {},
      .rounds = 10};
  for (const auto& [name, arguments] :
       std::vector<std::pair<std::string, std::vector<std::string>>>{
           {"KVM selftest, the kernel's own paging", {}},
           {"KVM selftest, userfaultfd, a page a fault", {"-u", "MISSING"}}}) {
    auto figure = selftest(arguments);
    if (const absl::StatusOr<double> once = figure(); !once.ok()) {
      return bench.Skip(kName, absl::StrCat(name, ": ", std::string(once.status().message())));
    }
    comparison.variants.push_back(OfChild({name, std::move(figure)}));
  }
  const auto ours = [](uint64_t around) {
    return MonitoredRam::Create({.around = around, .handlers = FaultHandlersForThisHost()});
  };
  for (absl::StatusOr<Variant>& made :
       std::array{Touched("our guest, the kernel's own paging",
                          PlainRam::Create(Backing::kAnon, Left::kNothing)),
                  Touched("our guest and monitor, --fault-around 1", ours(1)),
                  Touched("our guest and monitor, --fault-around 64", ours(64))}) {
    if (!made.ok()) return bench.Skip(kName, std::string(made.status().message()));
    comparison.variants.push_back(*std::move(made));
  }
  bench.Compare(std::move(comparison));
}

// A vCPU that writes to its memory for as long as this lives.
class BusyGuest {
 public:
  explicit BusyGuest(TouchingGuest& guest)
      : thread_([this, &guest] {
          while (!stop_.load(std::memory_order::relaxed)) guest.TouchAll();
        }) {}
  ~BusyGuest() {
    stop_.store(true, std::memory_order::relaxed);
    thread_.join();
  }
  BusyGuest(const BusyGuest&) = delete;
  BusyGuest& operator=(const BusyGuest&) = delete;

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

// A slot comes and goes beside a vCPU that runs.
void CompareMemslots(Bench& bench, const Peers& peers) {
  constexpr char kName[] = "peers.memslot";
  if (!bench.Wants(kName)) return;
  constexpr char kTest[] = "memslot_modification_stress_test";
  if (const std::string why = peers.WhyNot({kTest}); !why.empty()) return bench.Skip(kName, why);
  // Its start and its end cost the same with few and with many iterations.
  const auto selftest = [path = peers.Path(kTest)]() -> absl::StatusOr<double> {
    constexpr unsigned kFew = 2;
    constexpr unsigned kMany = 52;
    const auto run = [&](unsigned iterations) {
      return NsUntilOutput(
          {path, "-v", "1", "-b", "16M", "-d", "0", "-i", absl::StrCat(iterations)}, "");
    };
    const absl::StatusOr<double> few = run(kFew);
    if (!few.ok()) return few.status();
    const absl::StatusOr<double> many = run(kMany);
    if (!many.ok()) return many.status();
    return (*many - *few) / (kMany - kFew);
  };
  if (const absl::StatusOr<double> once = selftest(); !once.ok()) {
    return bench.Skip(kName, std::string(once.status().message()));
  }
  absl::StatusOr<std::shared_ptr<PlainRam>> ram = PlainRam::Create(Backing::kAnon, Left::kNothing);
  if (!ram.ok()) return bench.Skip(kName, std::string(ram.status().message()));
  absl::StatusOr<std::unique_ptr<TouchingGuest>> guest = TouchingGuest::Create((*ram)->range());
  if (!guest.ok()) return bench.Skip(kName, std::string(guest.status().message()));
  // The machine changes KVM's slot first, so that no vCPU fault finds a table without one.
  constexpr uint64_t kSlotPages = 16;
  const AnonymousMemory memory(kSlotPages);
  ResidentVm ours(kSlotPages);
  constexpr uint32_t kId = 100;
  const Gfn first{uint64_t{1} << 24};
  Vm& vm = (*guest)->vm();
  const auto change = [&] {
    const absl::Status in_kvm = vm.SetMemslot({.id = kId,
                                               .gpa = GpaOf(first),
                                               .bytes = kSlotPages * kPageSize,
                                               .hva = memory.range().begin});
    const absl::Status created = ours.mmu().CreateMemslot(
        {.id = kId, .gfns = {first, first + kSlotPages}, .hva = memory.range().begin});
    const absl::Status deleted = ours.mmu().DeleteMemslot(kId);
    const absl::Status out = vm.DeleteMemslot(kId);
    UNDERFOOT_CHECK(in_kvm.ok() && created.ok() && deleted.ok() && out.ok(),
                    "a benchmark's memslot was refused", kId, 0);
  };
  constexpr unsigned kChanges = 50;
  bench.Compare({.name = kName,
                 .what = "a memslot is added and deleted while a vCPU writes to another one",
                 .variants = {OfChild({"KVM selftest", selftest}),
                              {.name = "ours, with the slot of stage-2",
                               .run =
                                   [&](Turn& turn) {
                                     const BusyGuest busy(**guest);
                                     turn.Time(kChanges, [&] {
                                       for (unsigned i = 0; i < kChanges; ++i) change();
                                     });
                                   },
                               .goal = {}}},
                 .rounds = 6});
}

// A call of a program that has a hook on its memory calls; the range that interests it lies elsewhere.
void CompareHooks(Bench& bench, const Peers& peers) {
  for (const std::string call : {"madvise", "mmap_munmap"}) {
    const std::string name = absl::StrCat("peers.hook.", call);
    if (!bench.Wants(name)) continue;
    std::string why = peers.WhyNot({});
    const std::string program = Sibling("peer_memory_calls");
    if (why.empty() && !std::filesystem::exists(program))
      why = "UCX was not installed at the build";
    if (!why.empty()) {
      bench.Skip(name, why);
      continue;
    }
    const std::string label = absl::StrCat(call, " ");
    const auto figure = [label](Command command) {
      return [command = std::move(command), label] { return NumberBehind(command, label); };
    };
    CompareChildren(
        bench,
        {.name = name,
         .what = absl::StrCat("the call ",
                              call == "madvise" ? "madvise of a page" : "mmap and munmap of a page",
                              ", which concerns no registered memory"),
         .variants = {},
         .rounds = 10},
        {{"no hook", figure({program, "plain"})},
         {"libunderfoot_hooks, a range attached",
          figure({"/usr/bin/env", "LD_PRELOAD=" + Sibling("libunderfoot_hooks.so"), program,
                  "underfoot"})},
         {"UCX, a handler of unmaps", figure({program, "ucx", "libucs.so.0"})}});
  }
}

}  // namespace

void BenchPeers(Bench& bench) {
  const Peers peers(bench.peers());
  CompareStarts(bench, peers);
  CompareLinuxBoots(bench, peers);
  for (const uint32_t slots : {1u, 8u, 64u}) CompareReads(bench, peers, slots);
  ComparePaging(bench, peers);
  CompareMemslots(bench, peers);
  CompareHooks(bench, peers);
}

}  // namespace underfoot::bench
