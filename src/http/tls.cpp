#include "http/tls.hpp"

#include "http/http2_session.hpp"
#include "http/tls_context.hpp"
#include "http/tls_stream.hpp"

namespace cube::http {
namespace {

class FileTls final : public Tls {
 public:
  FileTls(std::string certificate_file, std::string key_file, ContextPointer context)
      : certificate_file_(std::move(certificate_file)),
        key_file_(std::move(key_file)),
        context_(std::move(context)) {}

  Result<void> reload() override {
    auto context = make_tls_context(certificate_file_, key_file_);
    if (!context) return std::move(context).error();
    context_ = std::move(*context);  // connections hold the one they were made with
    return {};
  }

  std::string certificate_end() const override { return http::certificate_end(context_.get()); }

  std::unique_ptr<Stream> secure(const asio::any_io_executor& executor, std::unique_ptr<Stream> raw,
                                 std::shared_ptr<Opening> opening, std::chrono::seconds timeout,
                                 std::string remote) override {
    return make_tls_stream(executor, std::move(raw), context_, std::move(opening), timeout,
                           std::move(remote));
  }

  std::shared_ptr<Http2Server> make_http2_server(std::shared_ptr<Connection> connection,
                                                 std::shared_ptr<const Handler> handler,
                                                 const Limits& limits) override {
    return std::make_shared<Http2Session>(std::move(connection), std::move(handler), limits);
  }

 private:
  std::string certificate_file_;
  std::string key_file_;
  std::shared_ptr<SSL_CTX> context_;
};

}  // namespace

Result<std::shared_ptr<Tls>> load_tls(std::string certificate_file, std::string key_file) {
  auto context = make_tls_context(certificate_file, key_file);
  if (!context) return std::move(context).error();
  return std::shared_ptr<Tls>(
      std::make_shared<FileTls>(std::move(certificate_file), std::move(key_file), std::move(*context)));
}

Result<void> reload_tls(Tls& tls) { return tls.reload(); }

std::string certificate_end(const Tls& tls) { return tls.certificate_end(); }

}  // namespace cube::http
