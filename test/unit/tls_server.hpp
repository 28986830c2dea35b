// What tests of TLS share: a server on a thread of its own, with a certificate of a fresh authority.
#pragma once

#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <cube/http.hpp>
#include <future>
#include <thread>

#include "certificates.hpp"
#include "event_loop.hpp"
#include "temporary_directory.hpp"

namespace cube::test {

class TlsServer {
 public:
  explicit TlsServer(http::Handler handler, http::Limits limits = {}) {
    renew_certificate();
    tls = must(http::load_tls(files().server, files().server_key));
    server.emplace(loop.get_executor(), std::move(handler), limits);
    port = must(server->listen("127.0.0.1", 0, tls));
    thread = std::thread([this] { loop.run(); });
  }
  ~TlsServer() {
    on_loop([this] { server.reset(); });
    work.reset();
    loop.stop();
    thread.join();
  }

  void renew_certificate() { must(cubectl::make_certificates({"cube.test", directory.path, 30})); }
  cubectl::CertificateFiles files() const { return cubectl::CertificateFiles(directory.path); }

  /// Runs `work` where the server runs; its value.
  template <class Work>
  std::invoke_result_t<Work&> on_loop(Work work) {
    std::packaged_task<std::invoke_result_t<Work&>()> task(std::move(work));
    auto outcome = task.get_future();
    asio::post(loop, std::move(task));
    return outcome.get();
  }

  /// Until it holds on the server's thread.
  template <class Condition>
  bool eventually(Condition condition, std::chrono::seconds time = std::chrono::seconds(20)) {
    const auto deadline = std::chrono::steady_clock::now() + time;
    while (!on_loop(condition)) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
  }

  TemporaryDirectory directory;
  asio::io_context loop;
  asio::executor_work_guard<asio::io_context::executor_type> work{loop.get_executor()};
  std::shared_ptr<http::Tls> tls;
  std::optional<http::Server> server;
  std::uint16_t port = 0;
  std::thread thread;
};

}  // namespace cube::test
