#include "core/log.hpp"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <ctime>

#include "core/json_writer.hpp"

namespace cube {
namespace {

std::atomic<LogLevel> threshold{LogLevel::info};

std::string_view name_of(LogLevel level) {
  switch (level) {
    case LogLevel::debug: return "debug";
    case LogLevel::info: return "info";
    case LogLevel::warning: return "warning";
    case LogLevel::error: return "error";
  }
  return "error";
}

std::string timestamp() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  tm calendar{};
  ::gmtime_r(&now.tv_sec, &calendar);
  char seconds[32];
  std::strftime(seconds, sizeof seconds, "%Y-%m-%dT%H:%M:%S", &calendar);
  char fraction[16];
  std::snprintf(fraction, sizeof fraction, ".%03dZ", static_cast<int>(now.tv_nsec / 1'000'000 % 1000));
  return std::string(seconds) + fraction;
}

}  // namespace

void set_log_level(LogLevel level) { threshold = level; }

void log(LogLevel level, std::string_view module, std::string_view message,
         std::initializer_list<LogField> fields) {
  if (level < threshold.load(std::memory_order_relaxed)) return;
  JsonWriter json;
  json.begin_object();
  json.key("time").value(timestamp()).key("level").value(name_of(level));
  json.key("module").value(module).key("message").value(message);
  for (const LogField& field : fields) json.key(field.key).value(field.value);
  json.end_object();
  const std::string line = json.take() + '\n';
  // A log that cannot be written has nowhere to be reported.
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace cube
