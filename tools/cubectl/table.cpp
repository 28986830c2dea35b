#include "table.hpp"

#include <algorithm>

#include "human.hpp"
#include "terminal.hpp"

namespace cube::cubectl {
namespace {

constexpr std::size_t gap = 2;
constexpr std::size_t least_last_width = 8;  // of a last column that is cut

}  // namespace

void Table::add(std::vector<std::string> cells) {
  cells.resize(columns_.size());
  for (std::string& cell : cells) cell = printable(cell);
  rows_.push_back(std::move(cells));
}

std::string Table::text(std::optional<std::size_t> width) const {
  std::vector<std::vector<std::string>> lines(1);
  for (const Column& column : columns_) lines.front().push_back(column.title);
  lines.insert(lines.end(), rows_.begin(), rows_.end());

  std::vector<std::size_t> widths(columns_.size(), 0);
  for (const auto& line : lines)
    for (std::size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], display_width(line[i]));
  std::size_t before_last = 0;
  for (std::size_t i = 0; i + 1 < widths.size(); ++i) before_last += widths[i] + gap;
  if (width && before_last + widths.back() > *width)
    widths.back() = std::max(least_last_width, *width - std::min(*width, before_last));

  std::string text;
  for (const auto& line : lines) {
    std::string row;
    for (std::size_t i = 0; i < line.size(); ++i) {
      const std::string cell = cut_to_width(line[i], widths[i]);
      const std::string padding(widths[i] - display_width(cell), ' ');
      if (i > 0) row.append(gap, ' ');
      row += columns_[i].align == Align::right ? padding + cell : cell + padding;
    }
    row.erase(row.find_last_not_of(' ') + 1);
    text += row + '\n';
  }
  return text;
}

void Table::print() const {
  const auto size = terminal_size(1);
  std::fputs(text(size ? std::optional<std::size_t>(size->columns) : std::nullopt).c_str(), stdout);
}

}  // namespace cube::cubectl
