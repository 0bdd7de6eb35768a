// The command line: what each option becomes, and what is said about one that is wrong.

#include "vmm/cli/command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "absl/strings/str_split.h"
#include "tests/control/scratch.h"
#include "vmm/cli/run_arguments.h"

namespace underfoot::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class CommandTest : public ::testing::Test {
 protected:
  CommandTest() {
    environment_.xdg_runtime_dir = runtime_dir_.path();
    environment_.uid = geteuid();
  }

  absl::StatusOr<Command> Parse(std::vector<std::string> arguments) {
    return ParseCommandLine(arguments, environment_);
  }

  template <class T>
  T As(std::vector<std::string> arguments) {
    const absl::StatusOr<Command> command = Parse(arguments);
    EXPECT_TRUE(command.ok()) << command.status();
    if (!command.ok() || !std::holds_alternative<T>(*command)) {
      ADD_FAILURE() << "another command";
      return T();
    }
    return std::get<T>(*command);
  }

  RunOptions Run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "run");
    return As<RunOptions>(std::move(arguments));
  }

  std::string Error(std::vector<std::string> arguments) {
    const absl::StatusOr<Command> command = Parse(std::move(arguments));
    EXPECT_FALSE(command.ok());
    const std::string message(command.status().message());
    EXPECT_THAT(message, Not(HasSubstr("\n")));
    return message;
  }

  // A file that may be a kernel.
  std::string Kernel() {
    const std::string path = runtime_dir_ / "kernel";
    std::ofstream(path) << "a kernel";
    return path;
  }

  const Scratch runtime_dir_;
  SocketEnvironment environment_;
};

TEST_F(CommandTest, TheCapOfRetiredTablesIsAutoOrASize) {
  EXPECT_EQ(Run({"--retired-cap", "4M"}).retired_cap_bytes, uint64_t{4} << 20);
  EXPECT_EQ(Run({"--retired-cap", "auto"}).retired_cap_bytes, std::nullopt);
}

TEST_F(CommandTest, RunHasTheDefaultsThatTheHelpShows) {
  const RunOptions options = Run({});
  EXPECT_EQ(options.guest, "mixed");
  EXPECT_EQ(options.memory_bytes, uint64_t{256} << 20);
  EXPECT_EQ(options.vcpus, 2U);
  EXPECT_EQ(options.backing, Backing::kAnon);
  EXPECT_EQ(options.huge_pages, HugePages::kOff);
  EXPECT_EQ(options.retired_cap_bytes, std::nullopt);
  EXPECT_TRUE(options.removal_events);
  EXPECT_TRUE(options.churn.off());
  EXPECT_EQ(options.kernel_events, KernelEvents::kAuto);
  EXPECT_EQ(options.seed, 1U);
  EXPECT_EQ(options.duration, std::chrono::seconds(10));
  EXPECT_EQ(options.name, "vm-" + std::to_string(getpid()));
  EXPECT_EQ(options.control_path, runtime_dir_ / "underfoot/" + options.name + ".sock");
  EXPECT_FALSE(options.json);
}

TEST_F(CommandTest, RunTakesEveryOption) {
  const RunOptions options = Run(
      {"--guest", "stamp",     "--memory=1G",     "--vcpus", "32",     "--backing", "memfd",
       "--churn", "punch:5/s", "--kernel-events", "off",     "--seed", "0x2a",      "--duration",
       "0",       "--control", "/tmp/x.sock",     "--name",  "me",     "--json"});
  EXPECT_EQ(options.guest, "stamp");
  EXPECT_EQ(options.memory_bytes, uint64_t{1} << 30);
  EXPECT_EQ(options.vcpus, 32U);
  EXPECT_EQ(options.backing, Backing::kMemfd);
  EXPECT_EQ(options.churn.rates, (ChurnRates{{ChurnKind::kPunch, 5}}));
  EXPECT_EQ(options.kernel_events, KernelEvents::kOff);
  EXPECT_EQ(options.seed, 42U);
  EXPECT_EQ(options.duration.count(), 0);
  EXPECT_EQ(options.control_path, "/tmp/x.sock");
  EXPECT_EQ(options.name, "me");
  EXPECT_TRUE(options.json);
}

TEST_F(CommandTest, OfAnOptionOfRunThatIsGivenTwiceTheLastCounts) {
  EXPECT_EQ(Run({"--duration", "10s", "--duration", "3s"}).duration, std::chrono::seconds(3));
}

TEST_F(CommandTest, ChurnIsResolvedForTheBackingWhateverTheOrderOfTheOptions) {
  EXPECT_TRUE(
      Run({"--churn", "punch:5/s", "--backing", "memfd"}).churn.rates.contains(ChurnKind::kPunch));
  EXPECT_FALSE(Run({"--churn", "mixed"}).churn.rates.contains(ChurnKind::kPunch));
  EXPECT_THAT(Error({"run", "--churn", "punch:5/s"}),
              AllOf(HasSubstr("--churn"), HasSubstr("--backing memfd")));
}

TEST_F(CommandTest, HugePagesNeedWholeHugePagesOfMemory) {
  EXPECT_EQ(Run({"--huge-pages", "thp"}).huge_pages, HugePages::kThp);
  EXPECT_EQ(Run({"--huge-pages", "2M", "--memory", "34M"}).huge_pages, HugePages::k2M);
  EXPECT_EQ(Run({"--memory", "4G", "--huge-pages", "1G"}).huge_pages, HugePages::k1G);
  EXPECT_THAT(Error({"run", "--huge-pages", "4M"}),
              AllOf(HasSubstr("--huge-pages: '4M'"), HasSubstr("off, thp, 2M or 1G")));
  EXPECT_THAT(Error({"run", "--huge-pages", "2M", "--memory", "33M"}),
              AllOf(HasSubstr("--memory: 33 MiB with --huge-pages 2M"), HasSubstr("multiple of 2M"),
                    HasSubstr("--huge-pages off")));
  EXPECT_THAT(Error({"run", "--huge-pages", "1G"}),
              AllOf(HasSubstr("256 MiB"), HasSubstr("at least 4G"), HasSubstr("--huge-pages 2M")));
}

TEST_F(CommandTest, OnlyALinuxGuestInPrivateMemoryHasHugePagesByDefault) {
  const std::string kernel = Kernel();
  const auto pages = [&](std::vector<std::string> more, bool thp = true) {
    more.insert(more.begin(), {"--kernel", kernel});
    return Run(more).PagesOn([thp] { return thp; });
  };
  EXPECT_EQ(pages({}), HugePages::kThp);
  EXPECT_EQ(pages({"--huge-pages", "auto"}), HugePages::kThp);
  EXPECT_EQ(pages({}, /*thp=*/false), HugePages::kOff);
  EXPECT_EQ(pages({"--huge-pages", "off"}), HugePages::kOff);
  EXPECT_EQ(pages({"--huge-pages", "2M"}), HugePages::k2M);
  EXPECT_EQ(pages({"--huge-pages", "thp"}, /*thp=*/false), HugePages::kThp);
  EXPECT_EQ(pages({"--backing", "memfd"}), HugePages::kOff);
  EXPECT_EQ(pages({"--memory", "65M"}), HugePages::kOff);  // not in whole huge pages
  EXPECT_EQ(pages({"--fault-around", "1"}), HugePages::kOff);
  EXPECT_EQ(pages({"--working-set", "1s"}), HugePages::kOff);
  const auto not_asked = [] {
    ADD_FAILURE() << "the host is asked without need";
    return true;
  };
  EXPECT_EQ(Run({}).PagesOn(not_asked), HugePages::kOff);
  EXPECT_EQ(Run({"--huge-pages", "thp"}).PagesOn(not_asked), HugePages::kThp);
  EXPECT_EQ(Run({"--kernel", kernel, "--backing", "memfd"}).PagesOn(not_asked), HugePages::kOff);
}

TEST_F(CommandTest, HugetlbMemoryRefusesUnsupportedChurnWithTheReason) {
  const auto error = [&](const char* kind) {
    return Error({"run", "--huge-pages", "2M", "--churn", kind});
  };
  EXPECT_THAT(error("merge:1/s"),
              AllOf(HasSubstr("--churn"), HasSubstr("KSM merges pages of 4 KiB"),
                    HasSubstr("--huge-pages thp or off")));
  EXPECT_THAT(error("pageout:1/s"), HasSubstr("never swapped out"));
  EXPECT_THAT(error("collapse:1/s"), HasSubstr("huge already"));
  EXPECT_THAT(error("remap:1/s"), HasSubstr("MREMAP_DONTUNMAP refuses them"));
  const ChurnRates mixed = Run({"--huge-pages", "2M", "--churn", "mixed"}).churn.rates;
  for (const auto& [kind, rate] : mixed) EXPECT_EQ(InfoOf(kind).not_on_hugetlb, "");
  EXPECT_TRUE(mixed.contains(ChurnKind::kWp));
  EXPECT_TRUE(
      Run({"--huge-pages", "thp", "--churn", "mixed"}).churn.rates.contains(ChurnKind::kCollapse));
}

TEST_F(CommandTest, AGuestIsANameOrAReadableFile) {
  const Scratch scratch;
  std::ofstream(scratch / "guest.elf") << "x";
  EXPECT_EQ(Run({"--guest", scratch / "guest.elf"}).guest, scratch / "guest.elf");
  EXPECT_THAT(Error({"run", "--guest", "stomp"}),
              AllOf(HasSubstr("'stomp' is not a built-in guest"), HasSubstr("hello, stamp"),
                    HasSubstr("No such file")));
  EXPECT_THAT(Error({"run", "--guest", scratch.path()}), HasSubstr("not a regular file"));
  EXPECT_THAT(Error({"run", "--guest", ""}), HasSubstr("--guest"));
}

TEST_F(CommandTest, AWrongValueIsNamedWithItsOptionAndWhatIsAllowed) {
  const auto memory = [&](const char* text) { return Error({"run", "--memory", text}); };
  EXPECT_THAT(memory("0"), HasSubstr("'0' is 0 bytes; it must be from 32 MiB to 222 GiB"));
  EXPECT_THAT(memory("31M"), HasSubstr("is 31 MiB; it must be from"));
  EXPECT_THAT(memory("2T"), HasSubstr("must be from"));
  EXPECT_THAT(memory("99999999999G"), HasSubstr("64 bits"));
  EXPECT_THAT(memory("67108865"), HasSubstr("not a whole number of 4096-byte pages"));
  EXPECT_THAT(memory("lots"), HasSubstr("--memory: 'lots' is not a size"));
  EXPECT_EQ(Run({"--memory", "32M"}).memory_bytes, kMinMemoryBytes);
  EXPECT_THAT(memory("1T"), HasSubstr("'1T' is 1 TiB; it must be from 32 MiB to 222 GiB"));
  EXPECT_EQ(Run({"--memory", "222G"}).memory_bytes, kMaxMemoryBytes);
  for (const char* vcpus : {"0", "65", "-1", "two", "", "1.5", "18446744073709551617"}) {
    EXPECT_THAT(Error({"run", std::string("--vcpus=") + vcpus}), HasSubstr("--vcpus")) << vcpus;
  }
  EXPECT_THAT(Error({"run", "--backing", "hugetlb"}), HasSubstr("must be anon or memfd"));
  EXPECT_THAT(Error({"run", "--uffd-events", "auto"}),
              AllOf(HasSubstr("--uffd-events: 'auto'"), HasSubstr("on or off")));
  EXPECT_THAT(Error({"run", "--uffd-events", "off", "--churn", "foreign:5/s"}),
              AllOf(HasSubstr("--uffd-events off"), HasSubstr("foreign")));
  EXPECT_FALSE(Run({"--uffd-events", "off"}).churn.rates.contains(ChurnKind::kForeign));
  for (const char* pages : {"0", "513", "all", "-1"}) {
    EXPECT_THAT(Error({"run", std::string("--fault-around=") + pages}),
                AllOf(HasSubstr("--fault-around: '"), HasSubstr("from 1 (off) to 512")))
        << pages;
  }
  EXPECT_EQ(Run({}).fault_around, 64u);
  EXPECT_EQ(Run({"--fault-around", "1"}).fault_around, 1u);
  EXPECT_EQ(Run({"--fault-around", "100"}).fault_around, 100u);
  EXPECT_EQ(Run({"--fault-around", "512"}).fault_around, 512u);
  for (const char* handlers : {"0", "9", "all", "-1"}) {
    EXPECT_THAT(Error({"run", std::string("--fault-handlers=") + handlers}),
                AllOf(HasSubstr("--fault-handlers: '"), HasSubstr("auto, or a number")))
        << handlers;
  }
  EXPECT_EQ(Run({}).fault_handlers, std::nullopt);
  EXPECT_EQ(Run({"--fault-handlers", "auto"}).fault_handlers, std::nullopt);
  EXPECT_EQ(Run({"--fault-handlers", "1"}).fault_handlers, 1u);
  EXPECT_EQ(Run({"--fault-handlers", "8"}).fault_handlers, 8u);
  EXPECT_FALSE(Run({}).pin_vcpus);
  EXPECT_TRUE(Run({"--pin-vcpus"}).pin_vcpus);
  EXPECT_THAT(Error({"run", "--churn", "frob:1/s"}),
              AllOf(HasSubstr("'frob' is not a kind"), HasSubstr("memslot")));
  EXPECT_THAT(Error({"run", "--kernel-events", "maybe"}),
              HasSubstr("--kernel-events: 'maybe' must be auto, on or off"));
  EXPECT_THAT(Error({"run", "--seed", "abc"}), HasSubstr("--seed: 'abc' is not a number"));
  EXPECT_THAT(Error({"run", "--duration", "10"}), HasSubstr("--duration: '10' is not a duration"));
  EXPECT_THAT(Error({"run", "--name", "a/b"}), HasSubstr("--name"));
  EXPECT_THAT(Error({"run", "--control", "/tmp/" + std::string(200, 'x')}),
              AllOf(HasSubstr("--control"), HasSubstr("at most 107")));
}

TEST_F(CommandTest, AnUnknownOptionOrCommandIsOneLineThatNamesTheHelp) {
  EXPECT_THAT(Error({"run", "--frob"}),
              AllOf(HasSubstr("--frob"), HasSubstr("underfoot run --help")));
  EXPECT_THAT(Error({"run", "extra"}), HasSubstr("extra"));
  EXPECT_THAT(Error({"frob"}),
              AllOf(HasSubstr("unknown command 'frob'; the commands are run, stats"),
                    HasSubstr("doctor"), HasSubstr("underfoot --help")));
  EXPECT_THAT(Error({"frob", "--json"}), HasSubstr("unknown command 'frob'"));
  EXPECT_THAT(Error({"a\nb"}), HasSubstr("unknown command 'a\\nb'"));
  EXPECT_THAT(Error({}), HasSubstr("underfoot --help"));
  EXPECT_THAT(Error({"stats", "--churn", "off"}),
              AllOf(HasSubstr("--churn"), HasSubstr("underfoot stats --help")));
  EXPECT_THAT(Error({"run", "--memory"}), HasSubstr("--memory"));
  EXPECT_THAT(Error({"pause", "--watch"}), HasSubstr("--watch"));
}

TEST_F(CommandTest, EveryClientCommandTakesAControlPathAndJson) {
  for (const auto& [name, verb] :
       std::vector<std::pair<std::string, ClientVerb>>{{"stats", ClientVerb::kStats},
                                                       {"caches", ClientVerb::kCaches},
                                                       {"memslots", ClientVerb::kMemslots},
                                                       {"churn", ClientVerb::kChurn},
                                                       {"pause", ClientVerb::kPause},
                                                       {"resume", ClientVerb::kResume},
                                                       {"quit", ClientVerb::kQuit}}) {
    const auto command = As<ClientCommand>({name, "--control", "/x", "--json"});
    EXPECT_EQ(command.verb, verb);
    EXPECT_EQ(command.control, "/x");
    EXPECT_TRUE(command.json);
    EXPECT_FALSE(command.watch.has_value());
    EXPECT_EQ(As<ClientCommand>({name}).control, "");
  }
}

TEST_F(CommandTest, WatchTakesSecondsOrNothing) {
  EXPECT_EQ(As<ClientCommand>({"stats", "--watch"}).watch, std::chrono::milliseconds(1000));
  EXPECT_EQ(As<ClientCommand>({"stats", "--watch", "2"}).watch, std::chrono::milliseconds(2000));
  EXPECT_EQ(As<ClientCommand>({"stats", "--watch=0.5"}).watch, std::chrono::milliseconds(500));
  EXPECT_EQ(As<ClientCommand>({"working-set", "--seconds", "1000000"}).seconds, "1000000");
  EXPECT_EQ(As<ClientCommand>({"working-set", "--seconds", "0.25"}).seconds, "0.25");
  EXPECT_EQ(As<ClientCommand>({"stats", "--watch", "250ms"}).watch, std::chrono::milliseconds(250));
  EXPECT_EQ(As<ClientCommand>({"stats", "--watch", "--json"}).watch,
            std::chrono::milliseconds(1000));
  EXPECT_EQ(As<ClientCommand>({"stats", "--watch", "1d"}).watch, std::chrono::hours(24));
  for (const char* bad : {"0", "-1", "x", "nan", "1e9"}) {
    EXPECT_THAT(Error({"stats", std::string("--watch=") + bad}), HasSubstr("--watch")) << bad;
  }
  for (const char* much : {"1e9", "366d", "100000000"}) {
    EXPECT_THAT(Error({"stats", "--watch", much}),
                AllOf(HasSubstr(much), HasSubstr("more than the most, 365d")));
  }
}

TEST_F(CommandTest, AnOptionInThePlaceOfTheCommandIsNamed) {
  EXPECT_THAT(Error({"--nonsense"}), HasSubstr("unknown option '--nonsense'"));
  EXPECT_THAT(Error({"--json", "stats"}),
              AllOf(HasSubstr("unknown option '--json'"), HasSubstr("stand behind it")));
}

TEST_F(CommandTest, StatsTakesAGroupAndWhatToLeaveOutOrCsv) {
  const auto command = As<ClientCommand>({"stats", "uffd", "--nonzero", "--csv", "--watch"});
  EXPECT_EQ(command.group, "uffd");
  EXPECT_TRUE(command.nonzero);
  EXPECT_TRUE(command.csv);
  EXPECT_TRUE(command.watch.has_value());
  EXPECT_EQ(As<ClientCommand>({"stats"}).group, "");
  EXPECT_THAT(Error({"stats", "--csv", "--json"}), HasSubstr("--csv"));
  EXPECT_THAT(Error({"caches", "--csv"}), HasSubstr("underfoot caches --help"));
}

TEST_F(CommandTest, ARunRecordsItsCommandLineAsAShellWouldAcceptIt) {
  EXPECT_EQ(Run({"--seed", "3", "--churn", "zap:5/s", "--backing", "memfd"}).command_line,
            "underfoot run --seed 3 --churn zap:5/s --backing memfd");
  EXPECT_EQ(Run({"--record", "a b'c", "--append", ""}).command_line,
            R"(underfoot run --record 'a b'\''c' --append '')");
}

TEST_F(CommandTest, MoreMemoryThanTheHostHasAndAnOptionThatTurnsAnotherOffAreAnnounced) {
  const RunOptions large = Run({"--memory", "64G"});
  EXPECT_THAT(NotesOn(large, uint64_t{20} << 30),
              ::testing::ElementsAre(AllOf(HasSubstr("--memory: 64 GiB"), HasSubstr("20480 MiB"),
                                           HasSubstr("--memory 10240M"))));
  EXPECT_THAT(NotesOn(large, uint64_t{65} << 30), ::testing::IsEmpty());
  EXPECT_THAT(NotesOn(large, std::nullopt), ::testing::IsEmpty());
  EXPECT_THAT(NotesOn(Run({"--working-set", "1s"}), std::nullopt),
              ::testing::ElementsAre(HasSubstr("turns --fault-around off")));
  EXPECT_THAT(NotesOn(Run({"--working-set", "1s", "--fault-around", "1"}), std::nullopt),
              ::testing::IsEmpty());
}

TEST_F(CommandTest, TheWorkingSetOptionSelectsWhatTheBackingNeeds) {
  EXPECT_FALSE(Run({}).working_set_period.has_value());
  EXPECT_FALSE(Run({"--working-set", "0"}).working_set_period.has_value());
  EXPECT_FALSE(Run({}).async_write_protect);
  EXPECT_TRUE(Run({"--write-protect", "async"}).async_write_protect);
  const RunOptions memfd = Run({"--working-set", "500ms", "--backing", "memfd"});
  EXPECT_EQ(memfd.working_set_period, std::chrono::milliseconds(500));
  EXPECT_FALSE(memfd.async_write_protect);
  EXPECT_TRUE(memfd.page_in_is_touch());
  EXPECT_FALSE(memfd.SamplesWrites());
  const RunOptions anon = Run({"--working-set", "1s"});
  EXPECT_TRUE(anon.async_write_protect);
  EXPECT_TRUE(anon.SamplesWrites());
  EXPECT_THAT(Error({"run", "--working-set", "1s", "--write-protect", "sync"}),
              AllOf(HasSubstr("--working-set"), HasSubstr("--backing memfd")));
  EXPECT_THAT(Error({"run", "--working-set", "often"}), HasSubstr("--working-set: 'often'"));
  EXPECT_THAT(Error({"run", "--working-set", "2h"}), HasSubstr("must be from 10ms to 1h"));
  EXPECT_THAT(Error({"run", "--working-set", "400d"}), HasSubstr("'400d' must be from 10ms to 1h"));
  EXPECT_THAT(Error({"run", "--dirty-log", "400d"}), HasSubstr("'400d' must be from 10ms to 1h"));
  EXPECT_THAT(Error({"run", "--duration", "400d"}), HasSubstr("365d; write 0 for no end"));
  EXPECT_THAT(Error({"run", "--end-timeout", "400d"}),
              AllOf(HasSubstr("more than the most, 365d"), Not(HasSubstr("no end"))));
  EXPECT_THAT(Error({"run", "--working-set", "1ms"}), HasSubstr("must be from 10ms to 1h"));
  EXPECT_THAT(Error({"run", "--write-protect", "never"}), HasSubstr("auto, sync or async"));
}

TEST_F(CommandTest, ADiskIsAFileAndMayBeReadOnly) {
  using Disks = std::vector<DiskFile>;
  EXPECT_EQ(Run({}).disks, Disks{});
  EXPECT_EQ(Run({"--disk", "a,b"}).disks, (Disks{{.path = "a,b"}}));
  EXPECT_EQ(Run({"--disk", "a,ro"}).disks, (Disks{{.path = "a", .read_only = true}}));
  EXPECT_THAT(Error({"run", "--disk", "a", "--guest", "stamp"}),
              HasSubstr("--disk: the guest stamp uses no disk"));
}

TEST_F(CommandTest, SeveralDisksAreForALinuxGuest) {
  const std::string kernel = Kernel();
  const RunOptions options =
      Run({"--kernel", kernel, "--disk", "a", "--disk", "b,ro", "--append", "quiet splash"});
  ASSERT_TRUE(options.RunsLinux());
  EXPECT_EQ(options.guest, kernel);
  EXPECT_EQ(options.linux_guest->append, "quiet splash");
  EXPECT_FALSE(options.linux_guest->console);
  EXPECT_FALSE(options.HasBuiltInGuest());
  EXPECT_EQ(options.disks,
            (std::vector<DiskFile>{{.path = "a"}, {.path = "b", .read_only = true}}));
  EXPECT_THAT(Error({"run", "--disk", "a", "--disk", "b"}), HasSubstr("uses one disk"));
  std::vector<std::string> many = {"run", "--kernel", kernel};
  for (size_t i = 0; i <= kMaxDisks; ++i) many.insert(many.end(), {"--disk", "a"});
  EXPECT_THAT(Error(many), HasSubstr("9 disks; at most 8"));
}

TEST_F(CommandTest, ALinuxGuestRunsUntilItEnds) {
  const std::string kernel = Kernel();
  EXPECT_EQ(Run({}).duration, std::chrono::seconds(10));
  EXPECT_EQ(Run({"--kernel", kernel}).duration.count(), 0);
  EXPECT_EQ(Run({"--kernel", kernel, "--duration", "5s"}).duration, std::chrono::seconds(5));
}

// A variable of a script that is empty must not give the run that there is without the option.
TEST_F(CommandTest, AnEmptyNameOfAFileIsRefusedWithItsOption) {
  for (const char* option : {"--kernel", "--initrd", "--guest", "--disk", "--record", "--replay",
                             "--control", "--name", "--churn"}) {
    EXPECT_THAT(Error({"run", option, ""}), HasSubstr(option));
  }
  EXPECT_THAT(Error({"stats", "--control", ""}), HasSubstr("--control"));
}

TEST_F(CommandTest, WhatALinuxGuestCannotHaveIsRefusedByName) {
  const std::string kernel = Kernel();
  const auto error = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"run", "--kernel", kernel});
    return Error(more);
  };
  EXPECT_THAT(error({"--guest", "stamp"}), HasSubstr("--guest"));
  EXPECT_THAT(error({"--memory", "4G"}), HasSubstr("from 64 MiB to 3072 MiB"));
  EXPECT_THAT(error({"--dirty-log", "1s"}), HasSubstr("Linux records nothing"));
  EXPECT_THAT(error({"--console", "--json"}), HasSubstr("--console"));
  EXPECT_THAT(error({"--initrd", "/nowhere"}), HasSubstr("--initrd: '/nowhere': No such file"));
  for (const std::string kind : {"discard", "free", "foreign", "merge"}) {
    EXPECT_THAT(
        error({"--churn", kind + ":1/s"}),
        AllOf(HasSubstr("churn kind " + kind + " erases content of pages"), HasSubstr("Linux")));
  }
  EXPECT_THAT(Error({"run", "--kernel", "/nowhere"}), HasSubstr("--kernel: '/nowhere'"));
  EXPECT_THAT(Error({"run", "--console"}), HasSubstr("give its --kernel as well"));
  EXPECT_THAT(Error({"run", "--append", "quiet"}), HasSubstr("--append: is for a Linux guest"));
}

TEST_F(CommandTest, MemoryToPlugIsWholeBlocksOfTheGuest) {
  const std::string kernel = Kernel();
  EXPECT_EQ(Run({"--kernel", kernel}).HotplugBytes(), 0u);
  EXPECT_EQ(Run({"--kernel", kernel, "--hotplug-memory", "1G"}).HotplugBytes(), uint64_t{1} << 30);
  EXPECT_EQ(Run({"--kernel", kernel, "--hotplug-memory", "1G"}).FirstPluggedBytes(), 0u);
  const auto error = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"run", "--kernel", kernel, "--hotplug-memory"});
    return Error(more);
  };
  EXPECT_THAT(Error({"run", "--guest", "stamp", "--hotplug-memory", "1G"}),
              HasSubstr("--hotplug-memory: '1G': the guest stamp plugs no memory"));
  EXPECT_THAT(error({"100M"}), HasSubstr("'100M': Linux plugs memory in blocks of 128 MiB"));
  EXPECT_THAT(error({"128M", "--memory", "200M"}), HasSubstr("blocks of 128 MiB"));
  EXPECT_THAT(error({"3G"}), HasSubstr("more than the 3072 MiB"));
  EXPECT_THAT(error({"128M", "--huge-pages", "2M"}), HasSubstr("take --huge-pages thp or off"));
  EXPECT_THAT(error({"128M", "--record", "r"}), HasSubstr("leave out --record and --replay"));
  EXPECT_THAT(error({"much"}), HasSubstr("--hotplug-memory: 'much'"));
  EXPECT_EQ(As<ClientCommand>({"memory", "--set", "256M"}).bytes, uint64_t{256} << 20);
  EXPECT_EQ(As<ClientCommand>({"memory"}).verb, ClientVerb::kMemory);
  EXPECT_THAT(Error({"memory", "--set", "much"}), HasSubstr("--set: 'much'"));
}

TEST_F(CommandTest, TheGuestMixedHasALittleMemoryToPlugUnlessSomethingIsAgainstIt) {
  EXPECT_EQ(Run({}).HotplugBytes(), uint64_t{16} << 20);
  EXPECT_EQ(Run({}).FirstPluggedBytes(), uint64_t{8} << 20);
  EXPECT_EQ(Run({"--hotplug-memory", "6M"}).FirstPluggedBytes(), uint64_t{2} << 20);
  EXPECT_EQ(Run({"--hotplug-memory", "0"}).HotplugBytes(), 0u);
  EXPECT_EQ(Run({"--guest", "devices"}).HotplugBytes(), uint64_t{16} << 20);
  EXPECT_EQ(Run({"--guest", "stamp"}).HotplugBytes(), 0u);
  EXPECT_EQ(Run({"--memory", "100004K"}).HotplugBytes(), 0u);
  EXPECT_EQ(Run({"--huge-pages", "2M"}).HotplugBytes(), 0u);
  EXPECT_EQ(Run({"--dirty-log", "1s"}).HotplugBytes(), 0u);
  EXPECT_EQ(Run({"--record", "r"}).HotplugBytes(), 0u);
  const auto error = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"run", "--hotplug-memory"});
    return Error(more);
  };
  EXPECT_THAT(error({"3M"}), HasSubstr("'3M': memory is plugged in blocks of 2 MiB"));
  EXPECT_THAT(error({"16M", "--memory", "100004K"}), HasSubstr("blocks of 2 MiB"));
  EXPECT_THAT(error({"2G"}), HasSubstr("more than the 1024 MiB that the guest can plug"));
  EXPECT_THAT(error({"16M", "--memory", "222G"}),
              AllOf(HasSubstr("with --memory"), HasSubstr("page tables can map"),
                    Not(HasSubstr("can plug"))));
  EXPECT_THAT(error({"16M", "--dirty-log", "1s"}), HasSubstr("leave out --dirty-log"));
  EXPECT_THAT(error({"16M", "--record", "r"}), HasSubstr("leave out --record and --replay"));
}

TEST_F(CommandTest, APresetLeavesOutWhatALinuxGuestCannotBearAndKeepsItsRate) {
  const std::string kernel = Kernel();
  const RunOptions options = Run({"--kernel", kernel, "--churn", "mixed:1000/s"});
  EXPECT_EQ(options.churn.rates.count(ChurnKind::kDiscard), 0u);
  EXPECT_EQ(options.churn.rates.count(ChurnKind::kForeign), 0u);
  EXPECT_GT(options.churn.rates.at(ChurnKind::kMemslot), 0);
  EXPECT_GT(options.churn.rates.at(ChurnKind::kMove), 0);
  EXPECT_NEAR(options.churn.TotalRate(), 1000, 0.1);
}

TEST_F(CommandTest, TheDirtyLogOptionNeedsAGuestThatRecordsItsWrites) {
  EXPECT_FALSE(Run({}).dirty_log_period.has_value());
  EXPECT_FALSE(Run({"--dirty-log", "off"}).dirty_log_period.has_value());
  EXPECT_FALSE(Run({}).RecordsVisits());
  const RunOptions options = Run({"--dirty-log", "50ms"});
  EXPECT_EQ(options.dirty_log_period, std::chrono::milliseconds(50));
  EXPECT_TRUE(options.RecordsVisits());
  for (const char* bad : {"0", "0s", "9ms", "2h"}) {
    EXPECT_THAT(Error({"run", std::string("--dirty-log=") + bad}),
                AllOf(HasSubstr("--dirty-log: "), HasSubstr("must be from 10ms to 1h")))
        << bad;
  }
  for (const char* bad : {"-1s", "often", "", "1"}) {
    EXPECT_THAT(Error({"run", std::string("--dirty-log=") + bad}), HasSubstr("--dirty-log")) << bad;
  }
  for (const char* guest : {"hello", "shared"}) {
    EXPECT_THAT(Error({"run", "--dirty-log", "1s", "--guest", guest}),
                AllOf(HasSubstr("--dirty-log: guest"), HasSubstr("take stamp, smp or mixed")));
  }
  EXPECT_THAT(Error({"run", "--dirty-log", "1s", "--memory", "4G"}),
              AllOf(HasSubstr("--dirty-log: "), HasSubstr("3088 MiB")));
  EXPECT_TRUE(Run({"--dirty-log", "1s", "--memory", "3088M"}).dirty_log_period.has_value());
  EXPECT_THAT(Error({"run", "--dirty-log", "1s", "--huge-pages", "1G", "--memory", "4G"}),
              AllOf(HasSubstr("--dirty-log: "), HasSubstr("take --huge-pages 2M")));
}

TEST_F(CommandTest, WithTheWorkingSetWpChurnNeedsASharedBacking) {
  EXPECT_THAT(Error({"run", "--working-set", "1s", "--churn", "wp:5/s"}),
              AllOf(HasSubstr("wp"), HasSubstr("--working-set")));
  EXPECT_FALSE(
      Run({"--working-set", "1s", "--churn", "mixed"}).churn.rates.contains(ChurnKind::kWp));
  EXPECT_TRUE(Run({"--working-set", "1s", "--churn", "wp:5/s", "--backing", "memfd"})
                  .churn.rates.contains(ChurnKind::kWp));
}

TEST_F(CommandTest, TheWorkingSetTakesSeconds) {
  EXPECT_EQ(As<ClientCommand>({"working-set"}).seconds, "");
  EXPECT_EQ(As<ClientCommand>({"working-set", "--seconds", "2.5"}).seconds, "2.5");
  EXPECT_EQ(As<ClientCommand>({"working-set", "--seconds", "500ms"}).seconds, "0.5");
  EXPECT_EQ(As<ClientCommand>({"working-set", "--seconds", "1d"}).seconds, "86400");
  for (const char* bad : {"0", "-1", "x", "nan"}) {
    EXPECT_THAT(Error({"working-set", std::string("--seconds=") + bad}), HasSubstr("--seconds"));
  }
}

TEST_F(CommandTest, Stage2NeedsAFrameNumber) {
  EXPECT_EQ(As<ClientCommand>({"stage2", "0x100"}).gfn, Gfn{0x100});
  EXPECT_EQ(As<ClientCommand>({"stage2", "--watch", "1", "256"}).gfn, Gfn{256});
  EXPECT_THAT(Error({"stage2"}), HasSubstr("GFN"));
  EXPECT_THAT(Error({"stage2", "here"}), HasSubstr("GFN: 'here' is not a number"));
}

TEST_F(CommandTest, ChurnSendsOnlyTheChangedMembers) {
  EXPECT_TRUE(As<ClientCommand>({"churn"}).churn.empty());
  const ChurnEdit edit =
      As<ClientCommand>({"churn", "--set", "zap:5/s", "--start", "--seed", "9"}).churn;
  EXPECT_EQ(edit.spec, "zap:5/s");
  EXPECT_EQ(edit.running, true);
  EXPECT_EQ(edit.seed, 9U);
  EXPECT_EQ(As<ClientCommand>({"churn", "--stop"}).churn.running, false);
  EXPECT_THAT(Error({"churn", "--start", "--stop"}), HasSubstr("--st"));
  EXPECT_THAT(Error({"churn", "--set", "frob"}), HasSubstr("--set"));
  EXPECT_THAT(Error({"churn", "--seed", "x"}), HasSubstr("--seed"));
}

TEST_F(CommandTest, NoLineOfAHelpIsLongerThan100Characters) {
  for (const char* command : {"run", "stats", "caches", "memslots", "stage2", "working-set",
                              "dirty", "devices", "balloon", "memory", "coverage", "events",
                              "churn", "pause", "resume", "quit", "wait", "doctor"}) {
    const std::string help = As<HelpCommand>({command, "--help"}).text;
    for (const absl::string_view line : absl::StrSplit(help, '\n')) {
      EXPECT_LE(line.size(), 100u) << command << ": " << line;
    }
  }
}

TEST_F(CommandTest, AFlagTakesNoValue) {
  EXPECT_THAT(Error({"run", "--json=yes"}), HasSubstr("--json"));
  EXPECT_THAT(Error({"run", "--pin-vcpus=3"}), HasSubstr("--pin-vcpus"));
  EXPECT_THAT(Error({"stats", "--nonzero=false"}), HasSubstr("--nonzero"));
}

TEST_F(CommandTest, HelpHasExamplesAndTheKindsOfChurn) {
  EXPECT_THAT(As<HelpCommand>({"--help"}).text,
              AllOf(HasSubstr("Examples:"), HasSubstr("doctor"), HasSubstr("stage2")));
  const std::string run = As<HelpCommand>({"run", "--help"}).text;
  EXPECT_THAT(run, AllOf(HasSubstr("Examples:"), HasSubstr("256M"), HasSubstr("--backing")));
  for (const ChurnKindInfo& info : kChurnKinds) EXPECT_THAT(run, HasSubstr(std::string(info.help)));
  EXPECT_THAT(As<HelpCommand>({"churn", "--help"}).text, HasSubstr("underfoot churn --stop"));
  EXPECT_THAT(As<HelpCommand>({"--version"}).text, HasSubstr("0.1.0"));
}

TEST_F(CommandTest, DoctorTakesJson) {
  EXPECT_FALSE(As<DoctorCommand>({"doctor"}).json);
  EXPECT_TRUE(As<DoctorCommand>({"doctor", "--json"}).json);
}

}  // namespace
}  // namespace underfoot::testing
