// The API client of cubectl: one connection, one request at a time.
#pragma once

#include <cube/http.hpp>
#include <functional>
#include <string>

namespace cube::cubectl {

struct Target {
  std::string url = "http://127.0.0.1:3000";
  std::string api_key;
};

/// Sends a JSON request and returns the body of a 2xx answer; any other answer is an error with E2B's
/// message.
Result<std::string> call(const Target& target, std::string method, std::string path, std::string body = {});

/// The same for an answer of JSON lines, handed over as they come.
Result<void> call_streaming(const Target& target, std::string method, std::string path, std::string body,
                            std::function<Result<void>(std::string_view line)> on_line);

}  // namespace cube::cubectl
