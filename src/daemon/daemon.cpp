#include "daemon/daemon.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <asio/io_context.hpp>
#include <asio/signal_set.hpp>
#include <asio/thread_pool.hpp>
#include <csignal>
#include <cube/api.hpp>
#include <cube/disk.hpp>
#include <cube/http.hpp>
#include <cube/node.hpp>
#include <cube/proxy.hpp>
#include <cube/template.hpp>
#include <thread>

#include "daemon/state_directory.hpp"

namespace cube::daemon {
namespace {

constexpr std::chrono::seconds shutdown_time{5};

Result<Fd> open_kvm(const std::string& path) {
  auto kvm = open_file(path, O_RDWR);
  if (!kvm) {
    Error error = std::move(kvm).error();
    if (error.code == ErrorCode::permission_denied)
      error.message += " (run as root or as a member of the group kvm)";
    else if (error.code == ErrorCode::not_found)
      error.message +=
          " (is the kvm_intel or kvm_amd module loaded, and virtualisation switched on in the firmware?)";
    return error;
  }
  CUBE_TRY(vmm::check_kvm(kvm->get()));
  return kvm;
}

Result<void> check_kernel(const std::string& path) {
  if (::access(path.c_str(), R_OK) == 0) return {};
  return os_error(errno, "cannot read the guest kernel (name it with --kernel)", path);
}

/// Guests may keep every processor busy: whoever answers requests and hands out work goes first. Needs
/// CAP_SYS_NICE; without it all are equal.
void prefer_this_thread() { ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), -10); }

/// Each sandbox needs a handful of descriptors, each connection one.
void raise_file_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

LogLevel log_level_of(const std::string& name) {
  if (name == "debug") return LogLevel::debug;
  if (name == "warning") return LogLevel::warning;
  if (name == "error") return LogLevel::error;
  return LogLevel::info;
}

std::uint32_t worker_count(const Config& config) {
  return config.workers > 0 ? config.workers : std::max(4u, 2 * std::thread::hardware_concurrency());
}

Result<std::uint64_t> memory_limit_mib(const Config& config) {
  const auto memory = node::host_memory();
  if (!memory) return memory.error();
  return static_cast<std::uint64_t>(static_cast<double>(memory->total_mib) * config.memory_overcommit);
}

/// None if it is not asked for.
Result<std::shared_ptr<http::Tls>> load_certificate(const Config& config) {
  if (config.tls_certificate.empty() && config.tls_key.empty()) return std::shared_ptr<http::Tls>();
  if (config.tls_certificate.empty() || config.tls_key.empty())
    return make_error(ErrorCode::invalid_argument, "--tls-cert and --tls-key only go together");
  return http::load_tls(config.tls_certificate, config.tls_key);
}

/// On every SIGHUP. A bad file is reported and changes nothing.
void reload_on_hangup(asio::signal_set& hangups, const std::shared_ptr<http::Tls>& tls) {
  hangups.async_wait([&hangups, tls](const asio::error_code& error, int) {
    if (error) return;
    const auto reloaded = http::reload_tls(*tls);
    if (reloaded.ok())
      log(LogLevel::info, "daemon", "read the TLS certificate again",
          {{"ends", http::certificate_end(*tls)}});
    else
      log(LogLevel::error, "daemon", "the old TLS certificate stays in use",
          {{"error", reloaded.error().describe()}});
    reload_on_hangup(hangups, tls);
  });
}

}  // namespace

Result<void> run(const Config& config) {
  set_log_level(log_level_of(config.log_level));
  std::signal(SIGPIPE, SIG_IGN);
  raise_file_limit();

  const auto endpoint = parse_endpoint(config.listen);
  if (!endpoint) return endpoint.error();
  if (config.no_auth && !is_loopback(endpoint->address))
    return make_error(ErrorCode::invalid_argument, "--no-auth only goes with a loopback address",
                      config.listen);
  const auto kvm = open_kvm(config.kvm_device);
  if (!kvm) return kvm.error();
  // Before there are secrets or threads.
  const auto shells = vmm::shells_in_processes(kvm->get());
  if (!shells) return shells.error();
  const auto tls = load_certificate(config);
  if (!tls) return tls.error();
  CUBE_TRY(check_kernel(config.kernel));
  const auto state = StateDirectory::open(config.state_directory);
  if (!state) return state.error();
  ApiKey key;
  if (!config.no_auth) {
    auto loaded = load_api_key(config.api_key_file);
    if (!loaded) return std::move(loaded).error();
    key = std::move(*loaded);
  }
  const auto memory_limit = memory_limit_mib(config);
  if (!memory_limit) return memory_limit.error();

  asio::thread_pool workers(worker_count(config));
  // Ending a machine waits for its threads and for KVM: nobody who starts one should have to wait behind
  // that.
  asio::thread_pool reapers(std::max(2u, std::thread::hardware_concurrency() / 2));
  asio::io_context loop(1);
  const vmm::Executors executors{loop.get_executor(), workers.get_executor()};

  CUBE_TRY(disk::remove_scratch_files(state->scratch()));
  auto store = node::Store::open(state->store());
  if (!store) return std::move(store).error();
  templates::Settings template_settings;
  template_settings.shells = *shells;
  template_settings.directory = state->templates();
  template_settings.scratch_directory = state->scratch();
  template_settings.kernel_path = config.kernel;
  auto catalogue = templates::make_templates(executors, **store, template_settings);
  if (!catalogue) return std::move(catalogue).error();
  node::Settings node_settings;
  node_settings.shells = *shells;
  node_settings.kernel_path = config.kernel;
  node_settings.scratch_directory = state->scratch();
  node_settings.paused_directory = state->paused();
  node_settings.checkpoint_directory = state->checkpoints();
  node_settings.node_tag = state->node_tag();
  node_settings.memory_limit_mib = *memory_limit;
  node_settings.sandbox_limit = config.max_sandboxes;
  node_settings.shell_pool_limit = config.vm_shells;
  node_settings.warm_pool_limit = config.warm_sandboxes;
  node_settings.warm_memory_share = config.warm_memory_percent / 100;
  node_settings.reapers = reapers.get_executor();
  node_settings.on_created = [&](const node::CloneSource& source) {
    (*catalogue)->count_spawn(source.template_id);
  };
  auto sandboxes = node::make_sandboxes(
      executors, **store, [&](std::string_view reference) { return (*catalogue)->source(reference); },
      node_settings);
  if (!sandboxes) return std::move(sandboxes).error();

  api::Settings api_settings;
  api_settings.api_key = key.value;
  api_settings.domain = config.domain;
  api_settings.image_directory = config.image_directory;
  proxy::Settings proxy_settings;
  proxy_settings.connections_per_sandbox = config.max_connections_per_sandbox;
  http::Limits limits;
  limits.connections = config.max_connections;
  limits.body_timeout = std::chrono::seconds(config.body_timeout);
  http::Server server(
      loop.get_executor(),
      proxy::make_handler(loop.get_executor(), **sandboxes,
                          api::make_handler(api_settings, **sandboxes, **catalogue), proxy_settings),
      limits);
  const auto port = server.listen(endpoint->address, endpoint->port, *tls);
  if (!port) return port.error();

  log(LogLevel::info, "daemon", "ready",
      {{"listen", endpoint->address + ":" + std::to_string(*port)},
       {"state", config.state_directory},
       {"templates", std::to_string((*catalogue)->list().size())},
       {"auth", config.no_auth ? "none" : (key.created ? "new key in " : "key in ") + config.api_key_file},
       {"tls", *tls ? "certificate ends " + http::certificate_end(**tls) : "none"}});

  asio::signal_set hangups(loop);
  if (*tls) {
    hangups.add(SIGHUP);
    reload_on_hangup(hangups, *tls);
  }

  asio::signal_set signals(loop, SIGINT, SIGTERM);
  signals.async_wait([&](const asio::error_code& error, int number) {
    if (error) return;
    log(LogLevel::info, "daemon", "shutting down", {{"signal", std::to_string(number)}});
    server.stop();
    (*sandboxes)->shut_down();
    loop.stop();
  });
  prefer_this_thread();  // last, because new threads inherit it
  loop.run();
  // Handlers end because their connections did; machines end on the workers.
  loop.restart();
  loop.run_for(shutdown_time);
  workers.join();
  reapers.join();
  log(LogLevel::info, "daemon", "stopped");
  return {};
}

}  // namespace cube::daemon
