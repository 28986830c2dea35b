// TLS on the port of plain HTTP: what the first byte decides, handshakes, certificates. The client is
// OpenSSL's.
#include <openssl/pem.h>

#include <catch2/catch.hpp>
#include <fstream>

#include "tls_client.hpp"
#include "tls_server.hpp"

using namespace cube;
using namespace cube::http;
using namespace cube::test;
using namespace std::chrono_literals;

namespace {

const std::string http1 = "\x08http/1.1";
const std::string both = "\x02h2\x08http/1.1";
const std::string last_request = "GET /a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

asio::awaitable<void> answer(Exchange& exchange) {
  const std::string path(exchange.request().path());
  ResponseHead head{200, {}};
  if (path == "/count") {
    std::vector<char> buffer(16 << 10);
    std::size_t size = 0;
    for (;;) {
      const auto count = co_await exchange.read_body(asio::buffer(buffer));
      if (!count.ok()) co_return;
      if (*count == 0) break;
      size += *count;
    }
    const auto sent = co_await exchange.respond(std::move(head), std::to_string(size));
    co_return must(Result<void>(sent));
  }
  if (path == "/large") {
    const auto sent = co_await exchange.respond(std::move(head), std::string(5'000'000, 'x'));
    co_return must(Result<void>(sent));
  }
  if (path == "/broken") {
    auto done = co_await exchange.begin(std::move(head));
    done = co_await exchange.write(asio::buffer("part", 4));
    exchange.abort();
    co_return;
  }
  const auto sent = co_await exchange.respond(std::move(head), "this is " + path);
  must(Result<void>(sent));
}

Limits hasty() {
  Limits limits;
  limits.head_timeout = 1s;
  return limits;
}

void write_text(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

std::string text_of(const std::string& path) { return must(read_file(path, 1 << 20)); }

}  // namespace

TEST_CASE("one port takes plain HTTP and TLS, whose client chooses HTTP/1.1 or HTTP/2") {
  TlsServer server(answer);
  CHECK(talk_plainly(server.port, last_request).ends_with("this is /a"));

  for (const std::string& alpn : {std::string(), http1}) {
    TlsClient client(server.port, {server.files().authority, alpn});
    REQUIRE(client.connected());
    CHECK(client.protocol() == (alpn.empty() ? "" : "http/1.1"));
    CHECK(client.send(last_request));
    CHECK(client.read_to_end().ends_with("this is /a"));
  }
  TlsClient client(server.port, {server.files().authority, both});
  REQUIRE(client.connected());
  CHECK(client.protocol() == "h2");
}

TEST_CASE("the certificate is for the domain, its subdomains, localhost and the loopback address") {
  TlsServer server(answer);
  for (const char* name : {"cube.test", "49983-iabc.cube.test", "api.cube.test", "localhost"})
    CHECK(TlsClient(server.port, {server.files().authority, http1, name}).connected());
  for (const char* name : {"other.test", "a.b.cube.test"})
    CHECK_FALSE(TlsClient(server.port, {server.files().authority, http1, name}).connected());
}

TEST_CASE("TLS 1.2 and 1.3 are spoken, older versions and other protocols are refused") {
  TlsServer server(answer);
  const std::string authority = server.files().authority;
  CHECK(TlsClient(server.port, {authority, http1}).version() == TLS1_3_VERSION);
  CHECK(TlsClient(server.port, {authority, both, "localhost", TLS1_2_VERSION}).version() == TLS1_2_VERSION);
  CHECK_FALSE(TlsClient(server.port, {authority, http1, "localhost", TLS1_1_VERSION}).connected());
  CHECK_FALSE(TlsClient(server.port, {authority, "\x04ldap"}).connected());
}

TEST_CASE("a client of TLS 1.2 may not renegotiate") {
  TlsServer server(answer);
  TlsClient client(server.port, {server.files().authority, http1, "localhost", TLS1_2_VERSION});
  REQUIRE(client.connected());
  SSL_renegotiate(client.ssl());
  CHECK(SSL_do_handshake(client.ssl()) != 1);
}

TEST_CASE("large bodies pass through TLS whole in both directions") {
  TlsServer server(answer);
  TlsClient client(server.port, {server.files().authority, http1});
  const std::size_t size = 8'000'000;
  CHECK(client.send("POST /count HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + std::to_string(size) +
                    "\r\n\r\n"));
  for (std::size_t sent = 0; sent < size; sent += 100'000) REQUIRE(client.send(std::string(100'000, 'x')));
  std::string text;
  while (!text.ends_with("\r\n\r\n8000000")) {
    const std::string piece = client.receive();
    REQUIRE_FALSE(piece.empty());
    text += piece;
  }
  CHECK(client.send("GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
  const std::string response = client.read_to_end();
  CHECK(response.size() - response.find("\r\n\r\n") - 4 == 5'000'000);
}

TEST_CASE("the connection of a finished response is closed with a word, that of a broken one without") {
  TlsServer server(answer);
  TlsClient whole(server.port, {server.files().authority, http1});
  CHECK(whole.send(last_request));
  whole.read_to_end();
  CHECK((SSL_get_shutdown(whole.ssl()) & SSL_RECEIVED_SHUTDOWN) != 0);

  TlsClient broken(server.port, {server.files().authority, http1});
  CHECK(broken.send("GET /broken HTTP/1.1\r\nHost: localhost\r\n\r\n"));
  broken.read_to_end();
  CHECK((SSL_get_shutdown(broken.ssl()) & SSL_RECEIVED_SHUTDOWN) == 0);
}

TEST_CASE("a connection that says nothing, or stops in the handshake, is closed in time") {
  TlsServer server(answer, hasty());
  const std::string first =
      GENERATE(std::string(), std::string("\x16"), std::string("\x16\x03\x01\x02\x00\x01", 6));
  const auto started = std::chrono::steady_clock::now();
  CHECK(talk_plainly(server.port, first).empty());
  const auto took = std::chrono::steady_clock::now() - started;
  CHECK(took > 500ms);
  CHECK(took < 10s);
  CHECK(server.eventually([&] { return server.server->connection_count() == 0; }));
}

TEST_CASE("what only looks like TLS ends the connection") {
  TlsServer server(answer);
  const std::string nonsense = std::string("\x16\x03\x01\x00\x10", 5) + std::string(1000, 'x');
  const std::string answered = talk_plainly(server.port, nonsense);
  CHECK(answered.size() < 10);  // an alert
  CHECK(server.eventually([&] { return server.server->connection_count() == 0; }));
}

TEST_CASE("connections over the limit are told so in TLS too") {
  Limits limits;
  limits.connections = 1;
  TlsServer server(answer, limits);
  TlsClient first(server.port, {server.files().authority, http1});
  REQUIRE(first.connected());
  TlsClient second(server.port, {server.files().authority, http1});
  REQUIRE(second.connected());
  CHECK(second.read_to_end().starts_with("HTTP/1.1 503 "));
  CHECK(first.send(last_request));
  CHECK(first.read_to_end().ends_with("this is /a"));
}

TEST_CASE("a certificate read again serves new connections and leaves old ones alone") {
  TlsServer server(answer);
  const TlsOptions options{server.files().authority, http1};
  TlsClient old(server.port, options);
  REQUIRE(old.connected());

  server.renew_certificate();
  must(server.on_loop([&] { return reload_tls(*server.tls); }));

  TlsClient fresh(server.port, options);
  REQUIRE(fresh.connected());
  CHECK(fresh.serial_number() != old.serial_number());
  CHECK(old.send(last_request));
  CHECK(old.read_to_end().ends_with("this is /a"));
}

TEST_CASE("a bad certificate file is named, and the old certificate stays") {
  TlsServer server(answer);
  const cubectl::CertificateFiles files = server.files();
  const TlsOptions options{files.authority, http1};
  const std::string serial = TlsClient(server.port, options).serial_number();
  struct Bad {
    std::string file, text, reason;
  };
  const std::vector<Bad> all = {
      {files.server, "", "no certificate in PEM form"},
      {files.server, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "damaged"},
      {files.server, text_of(files.authority), "does not belong"},
      {files.server_key, "secret", "no private key in PEM form"},
      {files.server_key, text_of(files.authority_key), "does not belong"}};
  for (const Bad& bad : all) {
    server.renew_certificate();
    write_text(bad.file, bad.text);
    const auto reloaded = server.on_loop([&] { return reload_tls(*server.tls); });
    REQUIRE_FALSE(reloaded.ok());
    const std::string text = reloaded.error().describe();
    INFO(text);
    CHECK(text.find(server.directory.path) != std::string::npos);
    CHECK(text.find(bad.reason) != std::string::npos);
    TlsClient after(server.port, options);
    REQUIRE(after.connected());
    CHECK(after.serial_number() == serial);
  }
}

TEST_CASE("a missing file and a key with a password are errors that name the file") {
  TlsServer server(answer);
  const auto missing = load_tls(server.directory / "none.pem", server.files().server_key);
  REQUIRE_FALSE(missing.ok());
  CHECK(missing.error().describe().find("none.pem") != std::string::npos);

  const std::string key = server.directory / "locked.key";
  BIO* bio = BIO_new_file(key.c_str(), "w");
  EVP_PKEY* locked = EVP_EC_gen("P-256");
  REQUIRE(PEM_write_bio_PrivateKey(bio, locked, EVP_aes_128_cbc(), nullptr, 0, nullptr,
                                   const_cast<char*>("password")) == 1);
  EVP_PKEY_free(locked);
  BIO_free(bio);
  const auto encrypted = load_tls(server.files().server, key);
  REQUIRE_FALSE(encrypted.ok());
  CHECK(encrypted.error().describe().find("encrypted") != std::string::npos);
  CHECK(encrypted.error().object == key);
}
