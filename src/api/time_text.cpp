#include "api/time_text.hpp"

#include <cstdint>
#include <cstdio>

namespace cube::api {
namespace {

using namespace std::chrono;

std::string format(TimePoint time, int digits, std::int64_t fraction) {
  const auto day = floor<days>(time);
  const year_month_day date(day);
  const hh_mm_ss clock(floor<seconds>(time - day));
  char text[64];
  std::snprintf(text, sizeof text, "%04d-%02u-%02uT%02d:%02d:%02d.%0*lldZ", static_cast<int>(date.year()),
                static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                static_cast<int>(clock.hours().count()), static_cast<int>(clock.minutes().count()),
                static_cast<int>(clock.seconds().count()), digits, static_cast<long long>(fraction));
  return text;
}

// Reads from the front of a text; one mismatch and everything after fails.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : rest_(text) {}

  int digits(std::size_t count) {
    int number = 0;
    for (std::size_t i = 0; i < count; ++i) {
      if (!next_is_digit()) return ok_ = false, 0;
      number = number * 10 + take_digit();
    }
    return number;
  }
  void expect(std::string_view any_of) {
    if (rest_.empty() || any_of.find(rest_.front()) == std::string_view::npos)
      ok_ = false;
    else
      rest_.remove_prefix(1);
  }
  bool next_is(char c) const { return !rest_.empty() && rest_.front() == c; }
  bool next_is_digit() const { return !rest_.empty() && rest_.front() >= '0' && rest_.front() <= '9'; }
  int take_digit() {
    const int digit = rest_.front() - '0';
    rest_.remove_prefix(1);
    return digit;
  }
  bool ok() const { return ok_; }
  bool finished() const { return ok_ && rest_.empty(); }

 private:
  std::string_view rest_;
  bool ok_ = true;
};

nanoseconds scan_fraction(Scanner& scanner) {
  if (!scanner.next_is('.')) return {};
  scanner.expect(".");
  std::int64_t fraction = scanner.digits(1), unit = 100'000'000;
  fraction *= unit;
  while (scanner.next_is_digit()) fraction += scanner.take_digit() * (unit /= 10);
  return nanoseconds(fraction);
}

minutes scan_offset(Scanner& scanner) {
  if (scanner.next_is('Z') || scanner.next_is('z')) {
    scanner.expect("Zz");
    return {};
  }
  const int sign = scanner.next_is('-') ? -1 : 1;
  scanner.expect("+-");
  const int hour = scanner.digits(2);
  scanner.expect(":");
  const int minute = scanner.digits(2);
  if (hour > 23 || minute > 59) scanner.expect("");
  return minutes(sign * (hour * 60 + minute));
}

}  // namespace

std::string date_text(TimePoint time) {
  return format(time, 3, floor<milliseconds>(time - floor<seconds>(time)).count());
}

std::string exact_date_text(TimePoint time) {
  return format(time, 9, nanoseconds(time - floor<seconds>(time)).count());
}

std::optional<TimePoint> parse_date(std::string_view text) {
  Scanner scanner(text);
  const int year_number = scanner.digits(4);
  scanner.expect("-");
  const int month_number = scanner.digits(2);
  scanner.expect("-");
  const int day_number = scanner.digits(2);
  scanner.expect("Tt ");
  const int hour = scanner.digits(2);
  scanner.expect(":");
  const int minute = scanner.digits(2);
  scanner.expect(":");
  const int second = scanner.digits(2);
  const nanoseconds fraction = scan_fraction(scanner);
  const minutes offset = scan_offset(scanner);
  if (!scanner.finished()) return std::nullopt;

  const year_month_day date(year(year_number), month(static_cast<unsigned>(month_number)),
                            day(static_cast<unsigned>(day_number)));
  const bool in_range = date.ok() && year_number >= 1970 && year_number <= 2200 && hour <= 23 && minute <= 59;
  if (!in_range || second > 60) return std::nullopt;
  return TimePoint(sys_days(date)) + hours(hour) + minutes(minute) + seconds(second) + fraction - offset;
}

}  // namespace cube::api
