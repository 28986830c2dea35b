// POST /templates/images: builds a template and tells how far it is, one JSON object a line.
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>
#include <deque>

#include "api/actions.hpp"
#include "api/image_request.hpp"
#include "api/template_json.hpp"

namespace cube::api {
namespace {

constexpr std::size_t most_waiting_lines = 1000;
constexpr std::size_t longest_line = 4096;

// What a build has said and its client has not been sent yet. The build goes on when the client leaves.
struct BuildLog {
  explicit BuildLog(const asio::any_io_executor& loop)
      : changed(loop, asio::steady_timer::time_point::max()) {}

  void add(std::string line) {
    if (lines.size() == most_waiting_lines) lines.pop_front();
    lines.push_back(std::move(line));
    changed.cancel();
  }

  std::deque<std::string> lines;
  bool complete = false;  ///< the last line is in
  asio::steady_timer changed;
};

// Marks the log complete however the build ends, so that nobody waits for ever.
struct Completion {
  std::shared_ptr<BuildLog> log;
  ~Completion() {
    log->complete = true;
    log->changed.cancel();
  }
};

std::string progress_line(std::string_view step) {
  JsonWriter json;
  json.begin_object().key("progress").value(step.substr(0, longest_line)).end_object();
  return json.take() + "\n";
}

std::string result_line(const Result<templates::TemplateInfo>& built) {
  JsonWriter json;
  json.begin_object();
  if (built.ok()) {
    json.key("template");
    write_template(json, *built);
  } else {
    json.key("error").raw(problem_of(built.error()).body);
  }
  json.end_object();
  return json.take() + "\n";
}

asio::awaitable<void> build(templates::Templates& templates, templates::BuildRequest request,
                            std::shared_ptr<BuildLog> build_log) {
  const Completion completion{build_log};
  const std::string name = request.name;
  auto progress = [build_log](std::string_view step) { build_log->add(progress_line(step)); };
  const auto built = co_await templates.build(std::move(request), std::move(progress));
  if (built.ok())
    log(LogLevel::info, "api", "template built", {{"name", name}, {"template", built->id}});
  else
    log(LogLevel::warning, "api", "template build failed",
        {{"name", name}, {"error", built.error().describe()}});
  build_log->add(result_line(built));
}

http::ResponseHead stream_head() {
  return {200, {{"Content-Type", "application/x-ndjson"}, {"Access-Control-Allow-Origin", "*"}}};
}

asio::awaitable<void> stream_log(http::Exchange& exchange, std::shared_ptr<BuildLog> build_log) {
  auto sent = co_await exchange.begin(stream_head());
  while (sent.ok()) {
    if (build_log->lines.empty()) {
      if (build_log->complete) break;
      asio::error_code ignored;
      co_await build_log->changed.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
      continue;
    }
    const std::string line = std::move(build_log->lines.front());
    build_log->lines.pop_front();
    sent = co_await exchange.write(asio::buffer(line));
  }
  if (sent.ok()) (void)co_await exchange.finish();
}

}  // namespace

Answering build_template_from_image(const Context& context, Call& call) {
  const std::string& directory = context.settings.image_directory;
  if (directory.empty())
    co_return problem(501,
                      "this server has no image directory; set one in its configuration to build templates");
  auto request = parse_image_request(call.body, directory);
  if (!request.ok()) co_return problem_of(request.error());
  const asio::any_io_executor loop = call.exchange.executor();
  const auto build_log = std::make_shared<BuildLog>(loop);
  asio::co_spawn(loop, build(context.templates, std::move(*request), build_log), asio::detached);
  co_await stream_log(call.exchange, build_log);
  co_return std::nullopt;
}

}  // namespace cube::api
