// cube-agent: process id 1 of every sandbox, and its envd.
#include <malloc.h>
#include <unistd.h>

#include <charconv>
#include <csignal>
#include <cstdio>
#include <cube/guest.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "agent.hpp"
#include "boot.hpp"

namespace {

using namespace cube;
using namespace cube::agent;

constexpr std::string_view usage =
    R"(usage: cube-agent                                 as process id 1 of a sandbox
       cube-agent --tcp ADDRESS:PORT [OPTION]...  on a host, to test it

As process id 1 it sets up the machine (mounts, network, control groups), starts /etc/cube/start.d/* and serves envd
on TCP and vsock port 49983, the daemon's requests on vsock port 1024 and tunnels on 1025.

On a host it mounts, configures and reaps nothing, keeps the clock and the names as they are, and runs programs as
users of the host for whoever connects: use loopback addresses. POST /shutdown ends it. Port 0 takes any free port.
  --tcp ADDRESS:PORT           serve envd there
  --control-tcp ADDRESS:PORT   serve the daemon's requests there
  --tunnel-tcp ADDRESS:PORT    serve tunnels there
  --services DIRECTORY         start its executable files as services, logging to the working directory
  --version                    print the version of envd it is equal to
)";

struct Endpoint {
  std::string address;
  std::uint16_t port = 0;
};

std::optional<Endpoint> parse_endpoint(std::string_view text) {
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  Endpoint endpoint{std::string(text.substr(0, colon)), 0};
  const std::string_view port = text.substr(colon + 1);
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), endpoint.port);
  if (error != std::errc{} || end != port.data() + port.size()) return std::nullopt;
  return endpoint;
}

void print(std::string_view text, std::FILE* stream) { std::fwrite(text.data(), 1, text.size(), stream); }

int refuse(const std::string& message) {
  print("cube-agent: " + message + "\n", stderr);
  print(usage, stderr);
  return 2;
}

/// Does what one option says; an error if it cannot.
Result<void> apply(Agent& agent, std::string_view option, std::string_view value) {
  if (option == "--services") {
    agent.start_services(std::string(value), ".");
    return {};
  }
  const auto endpoint = parse_endpoint(value);
  if (!endpoint) return make_error(ErrorCode::invalid_argument, "not ADDRESS:PORT", std::string(value));
  Result<std::uint16_t> port = make_error(ErrorCode::invalid_argument, "unknown option", std::string(option));
  if (option == "--tcp") port = agent.listen_envd(endpoint->address, endpoint->port);
  if (option == "--control-tcp") port = agent.listen_control(endpoint->address, endpoint->port);
  if (option == "--tunnel-tcp") port = agent.listen_tunnel(endpoint->address, endpoint->port);
  if (!port) return std::move(port).error();
  log(LogLevel::info, "agent", "listening",
      {{"option", std::string(option)}, {"port", std::to_string(*port)}});
  return {};
}

int run_on_host(int count, char** arguments) {
  ::signal(SIGPIPE, SIG_IGN);
  asio::io_context loop(1);
  auto agent = Agent::create(loop, Role::test_on_host);
  if (!agent) return refuse(agent.error().describe());
  for (int index = 1; index < count; index += 2) {
    const std::string_view option = arguments[index];
    if (index + 1 == count) return refuse(std::string(option) + " needs a value");
    if (const auto applied = apply(**agent, option, arguments[index + 1]); !applied)
      return refuse(applied.error().describe());
  }
  loop.run();
  return 0;
}

[[noreturn]] void run_as_init() {
  boot();
  asio::io_context loop(1);
  auto agent = Agent::create(loop, Role::machine);
  if (!agent) die(agent.error().describe());
  if (const auto listening = (*agent)->listen_on_vsock(); !listening) die(listening.error().describe());
  if (const auto port = (*agent)->listen_envd("0.0.0.0", guest::envd_port); !port)
    die(port.error().describe());
  // Clients inside that prefer IPv6; a kernel without it has none.
  static_cast<void>((*agent)->listen_envd("::", guest::envd_port));
  (*agent)->start_services("/etc/cube/start.d", "/var/log");
  for (;;) {
    // One connection's failure (memory, most likely) must not take the others with it.
    try {
      loop.run();
      die("the event loop has ended");
    } catch (const std::exception& exception) {
      log(LogLevel::error, "agent", exception.what());
    }
  }
}

}  // namespace

int main(int count, char** arguments) {
  // Every page of the agent is one a clone may have to copy.
  ::mallopt(M_ARENA_MAX, 1);
  ::mallopt(M_TRIM_THRESHOLD, 256 << 10);
  if (::getpid() == 1) {
    try {
      run_as_init();
    } catch (const std::exception& exception) {
      die(exception.what());
    }
  }
  const std::string_view first = count > 1 ? arguments[1] : "";
  if (first == "--help") return print(usage, stdout), 0;
  if (first == "--version") return print(std::string(guest::envd_version) + "\n", stdout), 0;
  if (count < 2) return refuse("not process id 1, and no option says where to listen");
  return run_on_host(count, arguments);
}
