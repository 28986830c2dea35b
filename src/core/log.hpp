// Structured logs: one JSON object a line on standard error, so that journald and people can both read it.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

namespace cube {

enum class LogLevel { debug, info, warning, error };

struct LogField {
  std::string_view key;
  std::string value;
};

/// Lines below the level are dropped. Safe from any thread.
void set_log_level(LogLevel level);

/// {"time":"2026-01-02T03:04:05.678Z","level":"info","module":"node","message":"…","sandbox":"i…"}
/// One write(2) per line; lines of different threads never mix.
void log(LogLevel level, std::string_view module, std::string_view message,
         std::initializer_list<LogField> fields = {});

}  // namespace cube
