#include "tests/oracle/comparisons.h"

#include "absl/strings/str_format.h"

namespace underfoot::oracle {
namespace {

bool WasMade(unsigned result) {
  return result != static_cast<unsigned>(Result::kWouldWait) &&
         result != static_cast<unsigned>(Result::kForbidden);
}

}  // namespace

uint64_t Comparisons::MadeOf(Kind kind) const {
  uint64_t made = 0;
  for (unsigned result = 0; result < kResults; ++result) {
    if (WasMade(result)) made += outcomes[static_cast<unsigned>(kind)][result];
  }
  return made;
}

uint64_t Comparisons::Operations() const {
  uint64_t made = 0;
  // The parts of an operation that called the page source do not count as operations.
  for (unsigned kind = 0; kind < static_cast<unsigned>(Kind::kLookUp); ++kind) {
    made += MadeOf(static_cast<Kind>(kind));
  }
  return made;
}

uint64_t Comparisons::Total() const {
  return Operations() + entries + caches + in_flight + contents + sections + freezes + waited +
         subscriber;
}

Comparisons& Comparisons::operator+=(const Comparisons& other) {
  for (unsigned kind = 0; kind < kKinds; ++kind) {
    for (unsigned result = 0; result < kResults; ++result) {
      outcomes[kind][result] += other.outcomes[kind][result];
    }
    ran_out[kind] += other.ran_out[kind];
  }
  entries += other.entries;
  caches += other.caches;
  in_flight += other.in_flight;
  contents += other.contents;
  sections += other.sections;
  freezes += other.freezes;
  waited += other.waited;
  subscriber += other.subscriber;
  interposed += other.interposed;
  waits += other.waits;
  registrations += other.registrations;
  censuses += other.censuses;
  return *this;
}

std::string Comparisons::Text() const {
  std::string text;
  for (unsigned kind = 0; kind < kKinds; ++kind) {
    absl::StrAppendFormat(&text, "%-12s %10u ", NameOf(static_cast<Kind>(kind)),
                          MadeOf(static_cast<Kind>(kind)));
    for (unsigned result = 0; result < kResults; ++result) {
      const uint64_t count = outcomes[kind][result];
      if (count == 0 || !WasMade(result)) continue;
      absl::StrAppendFormat(&text, " %s %u,", NameOf(static_cast<Result>(result)), count);
    }
    text.back() = '\n';
  }
  absl::StrAppendFormat(
      &text,
      "compared: %u outcomes, %u entries, %u caches, %u in flight, %u words, %u sections, "
      "%u frozen pages, %u waits for readers, %u subscriber; %u in all\n"
      "%u operations were interposed at a page source, %u times sections were left for others, "
      "%u readers were registered, %u censuses were taken\n",
      Operations(), entries, caches, in_flight, contents, sections, freezes, waited, subscriber,
      Total(), interposed, waits, registrations, censuses);
  return text;
}

}  // namespace underfoot::oracle
