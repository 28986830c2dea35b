// cube-bench-proxy: cubed's data-plane proxy alone, in front of one sandbox whose ports are a server of this
// machine. tools/bench measures it beside nginx.
#include <CLI/CLI.hpp>
#include <asio/io_context.hpp>
#include <asio/signal_set.hpp>
#include <csignal>
#include <cstdio>
#include <cube/proxy.hpp>

#include "memory_node.hpp"

int main(int argc, char** argv) {
  using namespace cube;
  std::string id = "iaaaaaaaaaaaaaaaaaaaa";
  std::uint16_t listen = 0, guest_port = 8080, server_port = 0;
  CLI::App app{"cube-bench-proxy: cubed's proxy in front of a server of this machine; tools/bench starts it"};
  app.add_option("--listen", listen, "port on 127.0.0.1; 0: any")->capture_default_str();
  app.add_option("--server", server_port, "the port on 127.0.0.1 that stands for the guest's")->required();
  app.add_option("--guest-port", guest_port, "what requests call it")->capture_default_str();
  app.add_option("--sandbox", id, "the sandbox's id")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  std::signal(SIGPIPE, SIG_IGN);
  asio::io_context loop(1);
  test::MemorySandboxes sandboxes;
  sandboxes.infos.push_back(test::MemorySandboxes::make(id));
  sandboxes.ports[guest_port] = server_port;
  const auto no_sandbox = [](http::Exchange& exchange) -> asio::awaitable<void> {
    http::ResponseHead head;
    head.status = 404;
    co_await exchange.respond(std::move(head), "");
  };
  http::Server server(loop.get_executor(), proxy::make_handler(loop.get_executor(), sandboxes, no_sandbox));
  const auto port = server.listen("127.0.0.1", listen);
  if (!port.ok()) {
    std::fprintf(stderr, "cube-bench-proxy: %s\n", port.error().describe().c_str());
    return 1;
  }
  std::printf("%u\n", static_cast<unsigned>(*port));
  std::fflush(stdout);
  asio::signal_set signals(loop, SIGINT, SIGTERM);
  signals.async_wait([&](const asio::error_code&, int) { loop.stop(); });
  loop.run();
  return 0;
}
