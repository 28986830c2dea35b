#include "template/builder.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <asio/post.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>
#include <filesystem>
#include <mutex>

#include "node/boot.hpp"
#include "template/files.hpp"

namespace cube::templates {
namespace {

using asio::awaitable;
using std::chrono::milliseconds;
using SteadyClock = std::chrono::steady_clock;

constexpr milliseconds ready_pause{250};
constexpr milliseconds connections_end{500};
constexpr milliseconds one_ready_try{60'000};

/// What the image wants run before it is captured. Says what failed, and nothing else.
constexpr const char* warm_up_command =
    "for file in /etc/cube/warm.d/*; do [ ! -x \"$file\" ] || \"$file\" </dev/null >/dev/null 2>&1 ||"
    " echo \"$file: exit status $?\"; done";

/// The end of what the guest said on its serial port: the only clue when it does not come up.
class ConsoleTail {
 public:
  void append(std::string_view text) {
    const std::scoped_lock lock(mutex_);
    text_ += text;
    if (text_.size() > 2 * capacity) text_.erase(0, text_.size() - capacity);
  }
  std::string take() const {
    const std::scoped_lock lock(mutex_);
    return text_.substr(text_.size() - std::min(text_.size(), capacity));
  }

 private:
  static constexpr std::size_t capacity = 2048;
  mutable std::mutex mutex_;
  std::string text_;
};

std::string seconds_since(SteadyClock::time_point start) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f s",
                std::chrono::duration<double>(SteadyClock::now() - start).count());
  return text;
}

class Build {
 public:
  Build(vmm::Executors executors, Settings settings, std::string id, BuildRequest request,
        std::function<void(std::string_view)> progress)
      : executors_(std::move(executors)),
        settings_(std::move(settings)),
        id_(std::move(id)),
        request_(std::move(request)),
        progress_(std::move(progress)),
        workspace_(settings_.directory + "/.tmp-" + id_),
        disk_(workspace_ + "/disk") {}

  awaitable<Result<snapshot::Shape>> run() {
    auto built = co_await steps();
    if (!built.ok() && machine_) {
      const std::string console = console_->take();
      if (!console.empty()) built.error().message += "; the guest's console ends with: " + console;
    }
    if (machine_) machine_->stop();
    // The machine goes before the files it has open.
    co_await run_on(executors_.workers, [this] {
      machine_.reset();
      std::error_code ignored;
      std::filesystem::remove_all(workspace_, ignored);
      return true;
    });
    co_return built;
  }

 private:
  awaitable<Result<snapshot::Shape>> steps() {
    progress_("copying the root file system");
    const auto prepared = co_await run_on(executors_.workers, [this] { return prepare_disk(); });
    if (!prepared.ok()) co_return prepared.error();

    progress_("booting the guest");
    const auto booting = SteadyClock::now();
    const auto booted = co_await run_on(executors_.workers, [this] { return boot(); });
    if (!booted.ok()) co_return booted.error();
    node::GuestClient guest(machine_);
    const auto answered = co_await guest.wait_ready(settings_.boot_timeout);
    if (!answered.ok()) co_return answered.error();
    progress_("the agent answered " + seconds_since(booting) + " after power-on");

    const auto named = co_await guest.init(template_identity(), settings_.boot_timeout);
    if (!named.ok()) co_return named.error();
    const auto ready = co_await wait_until_ready(guest);
    if (!ready.ok()) co_return ready.error();
    co_await warm_up(guest);
    const auto synced = co_await guest.sync(settings_.boot_timeout);
    if (!synced.ok()) co_return synced.error();
    progress_("waiting until it has come to rest");
    const auto settled = co_await guest.settle(settings_.boot_timeout);
    if (!settled.ok()) co_return settled.error();
    co_await let_connections_end();

    progress_("writing the snapshot");
    co_return co_await run_on(executors_.workers, [this] { return write_snapshot(); });
  }

  Result<void> prepare_disk() {
    std::error_code error;
    std::filesystem::create_directory(workspace_, error);
    if (error) return os_error(error.value(), "cannot create", workspace_);
    const auto bytes = copy_image(request_.rootfs_path, disk_, request_.disk_mib << 20);
    if (!bytes) return bytes.error();
    std::uint64_t image_bytes = std::filesystem::file_size(request_.rootfs_path, error);
    if (!error && *bytes > image_bytes) CUBE_TRY(grow_ext4(disk_));
    shape_ = {request_.vcpu_count, request_.memory_mib << 20, *bytes};
    return {};
  }

  Result<void> boot() {
    auto disk_fd = open_file(disk_, O_RDWR);
    if (!disk_fd) return std::move(disk_fd).error();
    auto disk = disk::open_raw_disk(std::move(*disk_fd));
    if (!disk) return std::move(disk).error();

    vmm::MachineConfig config;
    config.generation_id = random_generation_id();
    config.vcpu_count = shape_.vcpu_count;
    config.memory_bytes = shape_.memory_bytes;
    config.root_disk = std::move(*disk);
    config.on_console = [console = console_, id = id_](std::string_view text) {
      console->append(text);
      log(LogLevel::debug, "template", "console", {{"template", id}, {"text", std::string(text)}});
    };
    config.on_stop = [console = console_](vmm::StopReason reason) {
      if (reason.kind != vmm::StopReason::Kind::requested)
        console->append("\n[stopped: " + reason.detail + "]");
    };
    auto machine = node::boot_guest(*settings_.shells, executors_, std::move(config), settings_.kernel_path);
    if (!machine) return std::move(machine).error();
    machine_ = std::move(*machine);
    return machine_->resume();
  }

  guest::InitRequest template_identity() const {
    guest::InitRequest request;
    request.sandbox_id = make_sandbox_id("0000");  // no node owns it
    request.template_id = id_;
    request.entropy_hex = random_hex(64);
    request.unix_time_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(
                               std::chrono::system_clock::now().time_since_epoch())
                               .count();
    request.env_vars.emplace();
    request.new_identity = true;
    return request;
  }

  awaitable<Result<void>> wait_until_ready(node::GuestClient& guest) {
    if (request_.ready_command.empty()) co_return Result<void>{};
    progress_("waiting until it is ready: " + request_.ready_command);
    const auto started = SteadyClock::now();
    asio::steady_timer pause(co_await asio::this_coro::executor);
    for (;;) {
      const auto outcome = co_await guest.run(request_.ready_command, "root", one_ready_try);
      if (!outcome.ok()) co_return outcome.error();
      if (outcome->exit_code == 0) break;
      if (SteadyClock::now() - started > settings_.ready_timeout)
        co_return make_error(ErrorCode::deadline_exceeded,
                             "the template is not ready in time, the last try said: " + outcome->output);
      pause.expires_after(ready_pause);
      asio::error_code ignored;
      co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    }
    progress_("ready after " + seconds_since(started));
    co_return Result<void>{};
  }

  /// A clone has in memory what its template had: programs that were started once, so that their files are in
  /// the guest's page cache, start in every clone without its disk. An image that has nothing to run, or
  /// whose programs fail, is as good as before.
  awaitable<void> warm_up(node::GuestClient& guest) {
    progress_("warming up");
    const auto started = SteadyClock::now();
    const auto outcome = co_await guest.run(warm_up_command, "root", settings_.ready_timeout);
    std::string failed = outcome.ok() ? outcome->output : outcome.error().describe();
    while (failed.ends_with('\n')) failed.pop_back();
    progress_("warmed up in " + seconds_since(started) +
              (failed.empty() ? "" : "; not all went well: " + failed));
  }

  /// A snapshot without connections spares its clones from being told that those are gone before they can
  /// have one of their own; and what the end of the last one leaves to do is done here, not in every clone.
  static awaitable<void> let_connections_end() {
    asio::steady_timer pause(co_await asio::this_coro::executor, connections_end);
    asio::error_code ignored;
    co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }

  Result<snapshot::Shape> write_snapshot() {
    CUBE_TRY(machine_->pause());
    auto disk = open_file(disk_, O_RDONLY);
    if (!disk) return std::move(disk).error();
    const auto taken =
        snapshot::capture_first(shape_, *machine_, std::move(*disk), settings_.scratch_directory);
    if (!taken) return taken.error();
    CUBE_TRY((*taken)->publish(settings_.directory + "/" + id_));
    return shape_;
  }

  vmm::Executors executors_;
  const Settings settings_;
  const std::string id_;
  const BuildRequest request_;
  std::function<void(std::string_view)> progress_;
  const std::string workspace_;  ///< named so that snapshot::remove_leftovers takes it for one
  const std::string disk_;
  snapshot::Shape shape_;
  std::shared_ptr<ConsoleTail> console_ = std::make_shared<ConsoleTail>();
  std::shared_ptr<vmm::Machine> machine_;
};

}  // namespace

awaitable<Result<snapshot::Shape>> build_snapshot(vmm::Executors executors, Settings settings, std::string id,
                                                  BuildRequest request,
                                                  std::function<void(std::string_view)> progress) {
  Build build(std::move(executors), std::move(settings), std::move(id), std::move(request),
              std::move(progress));
  co_return co_await build.run();
}

}  // namespace cube::templates
