// Table: rows aligned to their content. On a terminal lines are cut to its width; in a pipe nothing is.
#pragma once

#include <cstdio>
#include <optional>
#include <string>
#include <vector>

namespace cube::cubectl {

class Table {
 public:
  enum class Align { left, right };
  struct Column {
    std::string title;
    Align align = Align::left;
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  /// One cell a column; control characters are replaced.
  void add(std::vector<std::string> cells);

  /// The table as text; a line longer than `width` loses the end of its last cell.
  std::string text(std::optional<std::size_t> width) const;

  /// To standard output, as wide as the terminal is.
  void print() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace cube::cubectl
