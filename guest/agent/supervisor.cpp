#include "supervisor.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>
#include <chrono>
#include <filesystem>

#include "environment.hpp"

namespace cube::agent {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds shortest_pause{200};
constexpr milliseconds longest_pause{5000};
constexpr std::chrono::seconds healthy_after{10};
constexpr off_t log_limit = 4 << 20;

std::vector<std::string> executables_in(const std::string& directory) {
  std::vector<std::string> paths;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string path = entry->path().string();
    if (entry->is_regular_file(error) && ::access(path.c_str(), X_OK) == 0) paths.push_back(path);
  }
  std::ranges::sort(paths);
  return paths;
}

/// Continues the log of earlier runs, unless it has grown too long.
Result<Fd> open_log(const std::string& path) {
  auto file = open_file(path, O_WRONLY | O_CREAT | O_APPEND, 0644);
  struct stat status {};
  if (file && ::fstat(file->get(), &status) == 0 && status.st_size > log_limit &&
      ::ftruncate(file->get(), 0) != 0)
    return os_error(errno, "cannot truncate", path);
  return file;
}

User root_user() {
  auto user = find_user("root");
  return user ? std::move(*user) : User{"root", 0, 0, {0}, "/root", "/bin/sh"};
}

}  // namespace

struct Supervisor::Shared {
  asio::any_io_executor loop;
  Children& children;
  const Settings& settings;
  std::string logs;
  bool stopped = false;
};

Supervisor::Supervisor(asio::any_io_executor loop, Children& children, const Settings& settings,
                       std::string logs)
    : shared_(new Shared{std::move(loop), children, settings, std::move(logs)}) {}

Supervisor::~Supervisor() { shared_->stopped = true; }

void Supervisor::start(const std::string& directory) {
  for (std::string& path : executables_in(directory))
    asio::co_spawn(shared_->loop, keep_running(shared_, std::move(path)), asio::detached);
}

asio::awaitable<void> Supervisor::keep_running(std::shared_ptr<Shared> shared, std::string path) {
  asio::steady_timer timer(shared->loop);
  milliseconds pause = shortest_pause;
  while (!shared->stopped) {
    const auto begun = Clock::now();
    if (const auto ran = co_await run_once(shared, path); !ran)
      log(LogLevel::warning, "supervisor", ran.error().describe(), {{"service", path}});
    if (Clock::now() - begun > healthy_after) pause = shortest_pause;
    timer.expires_after(pause);
    asio::error_code ignored;
    co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    pause = std::min(2 * pause, longest_pause);
  }
}

/// Returns when the service has ended.
asio::awaitable<Result<void>> Supervisor::run_once(std::shared_ptr<Shared> shared, std::string path) {
  const std::string name = std::filesystem::path(path).stem().string();
  auto output = open_log(shared->logs + "/cube-" + name + ".log");
  if (!output) co_return std::move(output).error();
  auto null = open_file("/dev/null", O_RDONLY);
  if (!null) co_return std::move(null).error();
  Program program;
  program.user = root_user();
  auto environment = environment_for(shared->settings, program.user, {});
  if (!environment) co_return std::move(environment).error();
  program.environment = std::move(*environment);
  program.arguments.push_back(path);
  program.directory = "/";
  Stdio stdio;
  stdio.input = null->get();
  stdio.output = stdio.error = output->get();
  auto child = shared->children.spawn(program, stdio);
  if (!child) co_return std::move(child).error();
  output->reset();
  null->reset();
  const int status = co_await (*child)->wait();
  log(LogLevel::info, "supervisor", "service ended",
      {{"service", path}, {"status", describe_status(status)}});
  co_return Result<void>{};
}

}  // namespace cube::agent
