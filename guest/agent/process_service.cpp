// process.Process: the methods, and the table of processes.
#include <algorithm>
#include <csignal>
#include <deque>

#include "environment.hpp"
#include "journal.hpp"
#include "process.hpp"
#include "services.hpp"

namespace cube::agent {
namespace {

using Clock = std::chrono::steady_clock;

/// A client that reconnects just after the end still learns of it.
constexpr auto finished_lifetime = std::chrono::seconds(30);
constexpr std::size_t finished_limit = 1024;
constexpr std::size_t longest_noted_command = 1024;

struct FinishedProcess {
  std::int64_t pid;
  std::string tag;
  int status;
  Clock::time_point at;
};

Error cancelled() { return make_error(ErrorCode::cancelled, "the client went away"); }

bool matches(const ProcessSelector& selector, std::int64_t pid, std::string_view tag) {
  return selector.pid != 0 ? selector.pid == pid : selector.tag == tag;
}

/// What is told of a process in the journal. Not its environment, which is where secrets are.
Journal::Fields note_of(const Program& program, const StartRequest& request) {
  Journal::Fields note;
  std::string& command = note["cmd"];
  for (const std::string& argument : program.arguments) {
    if (command.size() > longest_noted_command) break;
    command.append(command.empty() ? "" : " ").append(argument, 0, longest_noted_command);
  }
  note["cwd"] = program.directory;
  note["user"] = program.user.name;
  note["tag"] = request.tag;
  return note;
}

/// Forwards a subscription to a client until the last event.
asio::awaitable<Result<void>> deliver(std::shared_ptr<Subscription> subscription, std::int64_t pid,
                                      std::optional<Clock::time_point> deadline,
                                      std::chrono::seconds keepalive, MessageSink& sink) {
  sink.on_client_gone([watcher = std::weak_ptr<Subscription>(subscription)] {
    if (const auto alive = watcher.lock()) alive->close();
  });
  if (auto sent = co_await sink.send(start_event(pid)); !sent) co_return std::move(sent).error();
  for (;;) {
    auto until = Clock::now() + keepalive;
    if (deadline) until = std::min(until, *deadline);
    auto next = co_await subscription->next(until);
    switch (next.kind) {
      case Subscription::Next::Kind::event: break;
      case Subscription::Next::Kind::last: sink.send_last(*next.event); co_return Result<void>{};
      case Subscription::Next::Kind::finished: co_return Result<void>{};
      case Subscription::Next::Kind::closed: co_return cancelled();
      case Subscription::Next::Kind::timeout:
        if (deadline && Clock::now() >= *deadline)
          co_return make_error(ErrorCode::deadline_exceeded, "the call's timeout has passed");
        next.event = std::make_shared<const std::string>(keepalive_event());
    }
    if (auto sent = co_await sink.send(*next.event); !sent) co_return std::move(sent).error();
  }
}

}  // namespace

class ProcessService : public std::enable_shared_from_this<ProcessService> {
 public:
  ProcessService(asio::any_io_executor loop, Children& children, const Settings& settings, Journal& journal)
      : loop_(std::move(loop)), children_(children), settings_(settings), journal_(journal) {}
  ~ProcessService() {
    for (const auto& [pid, process] : running_) process->signal(SIGKILL);
  }

  void add_to(Router& router);

 private:
  using Reply = asio::awaitable<Result<std::string>>;

  asio::awaitable<Result<void>> start(CallContext context, JsonObject request, MessageSink& sink);
  asio::awaitable<Result<void>> connect(CallContext context, JsonObject request, MessageSink& sink);
  Reply list(CallContext context, JsonObject request);
  Reply update(CallContext context, JsonObject request);
  Reply send_input(CallContext context, JsonObject request);
  Reply stream_input(CallContext context, MessageSource& source);
  Reply send_signal(CallContext context, JsonObject request);
  Reply close_stdin(CallContext context, JsonObject request);

  Result<Program> program_for(const CallContext& context, const ProcessConfig& config) const;
  std::shared_ptr<Process> find_running(const ProcessSelector& selector) const;
  Result<std::shared_ptr<Process>> running(const JsonObject& request) const;
  void ended(const Process& process, int status);
  void forget_old();

  asio::any_io_executor loop_;
  Children& children_;
  const Settings& settings_;
  Journal& journal_;
  std::map<std::int64_t, std::shared_ptr<Process>> running_;
  std::deque<FinishedProcess> finished_;  ///< oldest first
};

Result<Program> ProcessService::program_for(const CallContext& context, const ProcessConfig& config) const {
  auto user = acting_user(settings_, context.user_name);
  if (!user) return std::move(user).error();
  auto environment = environment_for(settings_, *user, config.environment);
  if (!environment) return std::move(environment).error();
  Program program;
  program.arguments.push_back(config.command);
  program.arguments.insert(program.arguments.end(), config.arguments.begin(), config.arguments.end());
  program.environment = std::move(*environment);
  program.directory = resolve_path(settings_, *user, config.directory);
  program.user = std::move(*user);
  return program;
}

asio::awaitable<Result<void>> ProcessService::start(CallContext context, JsonObject request,
                                                    MessageSink& sink) {
  auto parsed = parse_start(request);
  request = JsonObject();  // streams last long, and there can be many
  if (!parsed) co_return std::move(parsed).error();
  auto program = program_for(context, parsed->config);
  if (!program) co_return std::move(program).error();
  Journal::Fields note = note_of(*program, *parsed);
  auto launched = co_await Process::launch(loop_, children_, std::move(*program), std::move(*parsed));
  if (!launched) {
    note["error"] = launched.error().describe();
    journal_.add("error", "process did not start", note);
    co_return std::move(launched).error();
  }

  const auto process = std::move(*launched);
  const std::int64_t pid = process->pid();
  running_[pid] = process;
  note["pid"] = std::to_string(pid);
  journal_.add("info", "process started", note);
  std::shared_ptr<Subscription> subscription = process->events().subscribe();
  process->begin(context.deadline, [service = weak_from_this(), ended = process.get()](int status) {
    if (const auto alive = service.lock()) alive->ended(*ended, status);
  });
  co_return co_await deliver(std::move(subscription), pid, context.deadline, context.keepalive, sink);
}

asio::awaitable<Result<void>> ProcessService::connect(CallContext context, JsonObject request,
                                                      MessageSink& sink) {
  auto selector = parse_selector(request);
  request = JsonObject();
  if (!selector) co_return std::move(selector).error();
  if (const auto process = find_running(*selector)) {
    std::shared_ptr<Subscription> subscription = process->events().subscribe();
    co_return co_await deliver(std::move(subscription), process->pid(), context.deadline, context.keepalive,
                               sink);
  }
  forget_old();
  const auto found = std::find_if(finished_.rbegin(), finished_.rend(), [&](const FinishedProcess& process) {
    return matches(*selector, process.pid, process.tag);
  });
  if (found == finished_.rend())
    co_return make_error(ErrorCode::not_found, selector->describe() + " not found");
  const FinishedProcess process = *found;
  if (auto sent = co_await sink.send(start_event(process.pid)); !sent) co_return std::move(sent).error();
  sink.send_last(end_event(process.status));
  co_return Result<void>{};
}

ProcessService::Reply ProcessService::list(CallContext, JsonObject) {
  JsonWriter json;
  json.begin_object().key("processes").begin_array();
  for (const auto& [pid, process] : running_) {
    const auto& [config, terminal, tag, input] = process->request();
    json.begin_object().key("config").begin_object();
    json.key("cmd").value(config.command).key("args").begin_array();
    for (const std::string& argument : config.arguments) json.value(argument);
    json.end_array().key("envs").begin_object();
    for (const auto& [name, value] : config.environment) json.key(name).value(value);
    json.end_object();
    if (!config.directory.empty()) json.key("cwd").value(config.directory);
    json.end_object().key("pid").value(pid);
    if (!tag.empty()) json.key("tag").value(tag);
    json.end_object();
  }
  json.end_array().end_object();
  co_return json.take();
}

ProcessService::Reply ProcessService::update(CallContext, JsonObject request) {
  auto process = running(request);
  if (!process) co_return std::move(process).error();
  auto size = parse_terminal(request);
  if (!size) co_return std::move(size).error();
  if (*size)
    if (auto resized = (*process)->resize(**size); !resized) co_return std::move(resized).error();
  co_return std::string("{}");
}

ProcessService::Reply ProcessService::send_input(CallContext, JsonObject request) {
  auto process = running(request);
  if (!process) co_return std::move(process).error();
  auto input = parse_input(request);
  if (!input) co_return std::move(input).error();
  if (auto written = co_await (*process)->write(std::move(*input)); !written)
    co_return std::move(written).error();
  co_return std::string("{}");
}

ProcessService::Reply ProcessService::stream_input(CallContext, MessageSource& source) {
  std::shared_ptr<Process> process;
  for (;;) {
    auto message = co_await source.receive();
    if (!message) co_return std::move(message).error();
    if (!*message) co_return std::string("{}");
    if ((*message)->has("start")) {
      auto start = (*message)->object("start");
      if (!start) co_return std::move(start).error();
      auto found = running(*start);
      if (!found) co_return std::move(found).error();
      process = std::move(*found);
    } else if ((*message)->has("data")) {
      if (!process) co_return make_error(ErrorCode::invalid_argument, "the first message must be start");
      auto data = (*message)->object("data");
      if (!data) co_return std::move(data).error();
      auto input = parse_input(*data);
      if (!input) co_return std::move(input).error();
      if (auto written = co_await process->write(std::move(*input)); !written)
        co_return std::move(written).error();
    }
  }
}

ProcessService::Reply ProcessService::send_signal(CallContext, JsonObject request) {
  auto process = running(request);
  if (!process) co_return std::move(process).error();
  // proto3 JSON spells enums by name, and accepts their numbers.
  int number = 0;
  if (const auto name = request.string("signal"); name.ok()) {
    if (*name == "SIGNAL_SIGTERM") number = SIGTERM;
    if (*name == "SIGNAL_SIGKILL") number = SIGKILL;
  } else if (const auto value = request.integer("signal");
             value.ok() && (*value == SIGTERM || *value == SIGKILL)) {
    number = static_cast<int>(*value);
  }
  if (number == 0)
    co_return make_error(ErrorCode::unimplemented, "signal must be SIGNAL_SIGTERM or SIGNAL_SIGKILL");
  (*process)->signal(number);
  co_return std::string("{}");
}

ProcessService::Reply ProcessService::close_stdin(CallContext, JsonObject request) {
  auto process = running(request);
  if (!process) co_return std::move(process).error();
  if (auto closed = (*process)->close_input(); !closed) co_return std::move(closed).error();
  co_return std::string("{}");
}

std::shared_ptr<Process> ProcessService::find_running(const ProcessSelector& selector) const {
  const auto found = std::ranges::find_if(running_, [&](const auto& entry) {
    return matches(selector, entry.first, entry.second->request().tag);
  });
  return found == running_.end() ? nullptr : found->second;
}

Result<std::shared_ptr<Process>> ProcessService::running(const JsonObject& request) const {
  auto selector = parse_selector(request);
  if (!selector) return std::move(selector).error();
  auto process = find_running(*selector);
  if (!process) return make_error(ErrorCode::not_found, selector->describe() + " not found");
  return process;
}

void ProcessService::ended(const Process& process, int status) {
  Journal::Fields note;
  note["pid"] = std::to_string(process.pid());
  note["cmd"] = process.request().config.command;
  note["status"] = describe_status(status);
  journal_.add("info", "process ended", note);
  finished_.push_back({process.pid(), process.request().tag, status, Clock::now()});
  // The kernel may have given the id to a new process since this one was reaped: its output can end much
  // later.
  const auto entry = running_.find(process.pid());
  if (entry != running_.end() && entry->second.get() == &process) running_.erase(entry);
  forget_old();
}

void ProcessService::forget_old() {
  const auto oldest = Clock::now() - finished_lifetime;
  while (!finished_.empty() && (finished_.size() > finished_limit || finished_.front().at < oldest))
    finished_.pop_front();
}

void ProcessService::add_to(Router& router) {
  const auto self = shared_from_this();
  const std::string prefix = "/process.Process/";
  router.add_server_stream(prefix + "Start",
                           [self](CallContext context, JsonObject request, MessageSink& sink) {
                             return self->start(std::move(context), std::move(request), sink);
                           });
  router.add_server_stream(prefix + "Connect",
                           [self](CallContext context, JsonObject request, MessageSink& sink) {
                             return self->connect(std::move(context), std::move(request), sink);
                           });
  router.add_client_stream(prefix + "StreamInput", [self](CallContext context, MessageSource& source) {
    return self->stream_input(std::move(context), source);
  });
  const auto add_unary = [&](const char* name, Reply (ProcessService::*method)(CallContext, JsonObject)) {
    router.add_unary(prefix + name, [self, method](CallContext context, JsonObject request) {
      return (self.get()->*method)(std::move(context), std::move(request));
    });
  };
  add_unary("List", &ProcessService::list);
  add_unary("Update", &ProcessService::update);
  add_unary("SendInput", &ProcessService::send_input);
  add_unary("SendSignal", &ProcessService::send_signal);
  add_unary("CloseStdin", &ProcessService::close_stdin);
}

std::shared_ptr<ProcessService> add_process_service(Router& router, asio::any_io_executor loop,
                                                    Children& children, const Settings& settings,
                                                    Journal& journal) {
  auto service = std::make_shared<ProcessService>(std::move(loop), children, settings, journal);
  service->add_to(router);
  return service;
}

}  // namespace cube::agent
