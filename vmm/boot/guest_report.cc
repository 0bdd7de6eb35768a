#include "vmm/boot/guest_report.h"

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>

#include "absl/strings/str_format.h"

namespace underfoot {
namespace {

constexpr size_t kReportWords = sizeof(abi::Report) / sizeof(uint64_t);

// Relaxed: the guest orders nothing by these words, and each is meaningful alone.
uint64_t LoadWord(Hva hva) {
  return std::atomic_ref<uint64_t>(*static_cast<uint64_t*>(PointerOf(hva)))
      .load(std::memory_order_relaxed);
}

bool WorseThan(const abi::Report& one, const abi::Report& other) {
  const auto rank = [](const abi::Report& report) {
    if (report.verdict != abi::Verdict::kGood && report.verdict != abi::Verdict::kAborted) return 2;
    if (report.mismatches != 0) return 2;
    return report.verdict == abi::Verdict::kGood ? 0 : 1;
  };
  return rank(one) > rank(other);
}

}  // namespace

abi::Report GuestReports::Read(uint64_t vcpu) const {
  std::array<uint64_t, kReportWords> words;
  const Hva report = system_area_ + abi::ReportGpa(vcpu);
  for (size_t i = 0; i < kReportWords; ++i) words[i] = LoadWord(report + i * sizeof(uint64_t));
  return std::bit_cast<abi::Report>(words);
}

abi::Report GuestReports::Total() const {
  abi::Report total = Read(0);
  for (uint64_t vcpu = 1; vcpu < vcpus_; ++vcpu) {
    const abi::Report report = Read(vcpu);
    abi::Report sum = WorseThan(report, total) ? report : total;
    sum.done = total.done + report.done;
    sum.rounds = total.rounds + report.rounds;
    sum.pages_checked = total.pages_checked + report.pages_checked;
    sum.pages_written = total.pages_written + report.pages_written;
    sum.zero_pages = total.zero_pages + report.zero_pages;
    sum.mismatches = total.mismatches + report.mismatches;
    sum.ring_consumed = total.ring_consumed + report.ring_consumed;
    sum.ring_answered = total.ring_answered + report.ring_answered;
    sum.barriers = total.barriers + report.barriers;
    sum.yields = total.yields + report.yields;
    sum.pages_owned = total.pages_owned + report.pages_owned;
    sum.final_checked = total.final_checked + report.final_checked;
    sum.final_skipped = total.final_skipped + report.final_skipped;
    sum.device_requests = total.device_requests + report.device_requests;
    sum.events_taken = total.events_taken + report.events_taken;
    sum.answers_in_runs = total.answers_in_runs + report.answers_in_runs;
    total = sum;
  }
  return total;
}

// The mark follows the write, since no read section holds a collection up in between.
void GuestReports::Write(uint64_t gpa, uint64_t word) const {
  const Hva hva = system_area_ + gpa;
  std::atomic_ref<uint64_t>(*static_cast<uint64_t*>(PointerOf(hva)))
      .store(word, std::memory_order_relaxed);
  if (log_ != nullptr) log_->Mark(PageRangeOf(hva));
}

void GuestReports::RequestStop() const {
  Write(abi::kBootInfoGpa + offsetof(abi::BootInfo, stop), 1);
}

void GuestReports::SetEpoch(uint64_t epoch) const {
  Write(abi::kBootInfoGpa + offsetof(abi::BootInfo, visit_epoch), epoch);
}

uint32_t GuestReports::WrittenIn(Gpa gpa) const {
  const Hva note = system_area_ + abi::VisitGpa(gpa.value) + offsetof(abi::Visit, written);
  return std::atomic_ref<uint32_t>(*static_cast<uint32_t*>(PointerOf(note)))
      .load(std::memory_order_acquire);
}

std::vector<Gpa> GuestReports::VisitingPages() const {
  std::vector<Gpa> pages;
  for (uint64_t vcpu = 0; vcpu < vcpus_; ++vcpu) {
    const uint64_t field = abi::ReportGpa(vcpu) + offsetof(abi::Report, visiting_page);
    // Acquire: what the guest wrote before it left its last page is seen by what follows.
    pages.push_back(
        {std::atomic_ref<uint64_t>(*static_cast<uint64_t*>(PointerOf(system_area_ + field)))
             .load(std::memory_order_acquire)});
  }
  return pages;
}

std::string_view Name(abi::Verdict verdict) {
  switch (verdict) {
    case abi::Verdict::kGood:
      return "good";
    case abi::Verdict::kMismatch:
      return "mismatch";
    case abi::Verdict::kException:
      return "exception";
    case abi::Verdict::kBadBootInfo:
      return "bad boot info";
    case abi::Verdict::kAborted:
      return "aborted";
    case abi::Verdict::kNothingChecked:
      return "nothing checked";
  }
  return "unknown verdict";
}

std::string_view Name(abi::Workload workload) {
  switch (workload) {
    case abi::Workload::kHello:
      return "hello";
    case abi::Workload::kStamp:
      return "stamp";
    case abi::Workload::kSmp:
      return "smp";
    case abi::Workload::kShared:
      return "shared";
    case abi::Workload::kMixed:
      return "mixed";
  }
  return "unknown workload";
}

std::string Describe(const abi::Mismatch& mismatch) {
  return absl::StrFormat("gfn %#x word %u: expected %#x, found %#x (%s)", mismatch.gfn,
                         mismatch.word, mismatch.expected, mismatch.found, NameOf(mismatch.kind));
}

}  // namespace underfoot
