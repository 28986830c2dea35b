#include "api/answer.hpp"

namespace cube::api {
namespace {

Answer capacity_problem(const Error& error) {
  Answer answer = problem(503, error.describe(), "sandbox_capacity_unavailable");
  // Nothing here frees capacity by itself soon: a client that sends again at once only adds load.
  answer.headers.add("Should-Retry", "false");
  return answer;
}

// What happened inside the daemon goes to its log in full; paths of the host are not the client's business.
Answer internal_problem(const Error& error, std::string_view error_code) {
  log(LogLevel::error, "api", "request failed",
      {{"error", error.describe()}, {"code", std::string(to_string(error.code))}});
  return problem(500, error.message.empty() ? "internal error; see the daemon's log" : error.message,
                 error_code);
}

}  // namespace

Answer json_answer(int status, std::string body) {
  return {status, std::move(body), {{"Content-Type", "application/json; charset=utf-8"}}};
}

Answer no_content() { return {204, {}, {}}; }

Answer problem(int status, std::string_view message, std::string_view error_code) {
  JsonWriter json;
  json.begin_object().key("code").value(status).key("message").value(message);
  if (!error_code.empty()) json.key("error_code").value(error_code);
  json.end_object();
  return json_answer(status, json.take());
}

Answer problem_of(const Error& error) {
  switch (error.code) {
    case ErrorCode::invalid_argument: return problem(400, error.describe());
    case ErrorCode::unauthenticated: return problem(401, error.describe());
    case ErrorCode::permission_denied: return problem(403, error.describe());
    case ErrorCode::not_found: return problem(404, error.describe());
    case ErrorCode::already_exists:
    case ErrorCode::conflict: return problem(409, error.describe());
    case ErrorCode::resource_exhausted: return capacity_problem(error);
    case ErrorCode::unimplemented: return problem(501, error.describe());
    case ErrorCode::unavailable:
    case ErrorCode::deadline_exceeded:
    case ErrorCode::cancelled:
    case ErrorCode::corrupt:
    case ErrorCode::guest:
    case ErrorCode::internal: break;
  }
  return internal_problem(error, "internal_server_error");
}

Answer create_problem_of(const Error& error) {
  switch (error.code) {
    case ErrorCode::unavailable:
    case ErrorCode::deadline_exceeded:
    case ErrorCode::guest: return internal_problem(error, "sandbox_create_failed");
    default: return problem_of(error);
  }
}

}  // namespace cube::api
