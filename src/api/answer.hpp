// Answer: a whole response, and how errors become E2B's {"code","message","error_code"?} with code == status.
#pragma once

#include <cube/core.hpp>
#include <cube/http.hpp>
#include <string>
#include <string_view>

namespace cube::api {

struct Answer {
  int status = 200;
  std::string body;
  http::Headers headers;
};

Answer json_answer(int status, std::string body);
Answer no_content();
Answer problem(int status, std::string_view message, std::string_view error_code = {});

/// For every call but create. Statuses SDKs send again on their own (429, 502, 503, 504) are only used where
/// nothing happened and waiting may help; `Should-Retry: false` says when it cannot.
Answer problem_of(const Error& error);

/// What failed while a sandbox was made.
Answer create_problem_of(const Error& error);

}  // namespace cube::api
