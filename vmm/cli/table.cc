#include "vmm/cli/table.h"

#include <algorithm>
#include <cstddef>

namespace underfoot {
namespace {

// The number of columns on a terminal: a continuation byte of UTF-8 needs none.
size_t WidthOf(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0U) != 0x80U;
  }));
}

// Text from a socket may contain any bytes, and a terminal executes control characters.
std::string Printable(std::string text) {
  std::replace_if(
      text.begin(), text.end(),
      [](char c) { return static_cast<unsigned char>(c) < 0x20U || c == 0x7f; }, '?');
  return text;
}

}  // namespace

std::string TextTable::Text() const {
  std::vector<std::vector<std::string>> rows = rows_;
  std::vector<size_t> widths(columns_.size(), 0);
  for (std::vector<std::string>& row : rows) {
    for (size_t i = 0; i < row.size() && i < widths.size(); ++i) {
      row[i] = Printable(std::move(row[i]));
      widths[i] = std::max(widths[i], WidthOf(row[i]));
    }
  }
  std::string text;
  for (const std::vector<std::string>& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size() && i < widths.size(); ++i) {
      const std::string padding(widths[i] - WidthOf(row[i]), ' ');
      if (i != 0) line += "  ";
      line += columns_[i] == Align::kRight ? padding + row[i] : row[i] + padding;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

}  // namespace underfoot
