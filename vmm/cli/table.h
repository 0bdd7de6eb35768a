// Text in aligned columns.
//
// Thread safety: a value.

#ifndef UNDERFOOT_VMM_CLI_TABLE_H_
#define UNDERFOOT_VMM_CLI_TABLE_H_

#include <cstdint>
#include <string>
#include <vector>

namespace underfoot {

enum class Align : uint8_t { kLeft, kRight };

class TextTable {
 public:
  // A row may have fewer cells than `columns`. A row with more is a bug of the caller.
  explicit TextTable(std::vector<Align> columns) : columns_(std::move(columns)) {}

  void AddRow(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }

  // Two blanks between columns, and none at the end of a line.
  [[nodiscard]] std::string Text() const;

 private:
  std::vector<Align> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_TABLE_H_
