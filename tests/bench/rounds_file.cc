#include "tests/bench/rounds_file.h"

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace underfoot::bench {
namespace {

using Json = nlohmann::json;

Json Packed(const std::vector<double>& figures) {
  std::vector<uint8_t> bytes(figures.size() * sizeof(double));
  if (!bytes.empty()) std::memcpy(bytes.data(), figures.data(), bytes.size());
  return Json::binary(std::move(bytes));
}

std::vector<double> Unpacked(const Json& json) {
  const Json::binary_t& bytes = json.get_binary();
  std::vector<double> figures(bytes.size() / sizeof(double));
  if (!figures.empty()) std::memcpy(figures.data(), bytes.data(), figures.size() * sizeof(double));
  return figures;
}

}  // namespace

absl::Status SaveRounds(const std::string& path, const RoundsOfAll& rounds) {
  Json all = Json::object();
  for (const auto& [name, taken] : rounds) {
    Json variants = Json::array();
    for (const VariantRounds& variant : taken.variants) {
      variants.push_back({{"samples", Packed(variant.samples)},
                          {"medians", Packed(variant.medians)},
                          {"ratios", Packed(variant.ratios)},
                          {"discarded", variant.discarded}});
    }
    all[name] = {{"count", taken.count}, {"variants", std::move(variants)}};
  }
  std::ofstream file(path, std::ios::binary);
  Json::to_cbor(all, file);
  file.close();
  return file ? absl::OkStatus()
              : absl::UnavailableError(absl::StrCat("cannot write '", path, "'"));
}

absl::StatusOr<RoundsOfAll> LoadRounds(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const Json all = Json::from_cbor(file, /*strict=*/true, /*allow_exceptions=*/false);
  if (all.is_discarded()) return absl::DataLossError(absl::StrCat("'", path, "' has no rounds"));
  RoundsOfAll rounds;
  for (const auto& [name, taken] : all.items()) {
    Rounds& to = rounds[name];
    to.count = taken["count"];
    for (const Json& variant : taken["variants"]) {
      to.variants.push_back({.samples = Unpacked(variant["samples"]),
                             .medians = Unpacked(variant["medians"]),
                             .ratios = Unpacked(variant["ratios"]),
                             .discarded = variant["discarded"]});
    }
  }
  return rounds;
}

}  // namespace underfoot::bench
