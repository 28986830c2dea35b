// What `cubectl cert` leaves in its directory.
#include "certificates.hpp"

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <fstream>

#include "temporary_directory.hpp"

using namespace cube;
using namespace cube::cubectl;
using namespace cube::test;

namespace {

struct Free {
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(BIO* bio) const { BIO_free(bio); }
};
using Certificate = std::unique_ptr<X509, Free>;

std::string text_of(const std::string& path) {
  const auto text = read_file(path, 1 << 20);
  REQUIRE(text.ok());
  return *text;
}

Certificate load(const std::string& path) {
  const std::string text = text_of(path);
  const std::unique_ptr<BIO, Free> bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  Certificate certificate(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  REQUIRE(certificate);
  return certificate;
}

unsigned mode_of(const std::string& path) {
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return status.st_mode & 0777;
}

bool make(const CertificateRequest& request) {
  const auto made = make_certificates(request);
  if (!made.ok()) FAIL(made.error().describe());
  return *made;
}

std::string failure(const CertificateRequest& request) {
  const auto made = make_certificates(request);
  REQUIRE_FALSE(made.ok());
  return made.error().describe();
}

struct Fixture {
  TemporaryDirectory directory;
  CertificateRequest request{"cube.local", directory / "tls", 30};
  CertificateFiles files{request.directory};
};

}  // namespace

TEST_CASE("the first call makes an authority and a certificate, keys for nobody else's eyes") {
  Fixture fixture;
  CHECK(make(fixture.request));
  CHECK(mode_of(fixture.files.authority) == 0644);  // clients of all users are to trust it
  CHECK(mode_of(fixture.files.authority_key) == 0600);
  CHECK(mode_of(fixture.files.server_key) == 0600);
  CHECK(std::distance(std::filesystem::directory_iterator(fixture.request.directory), {}) == 4);

  const Certificate server = load(fixture.files.server);
  for (const char* name : {"cube.local", "49983-iabc.cube.local", "localhost"})
    CHECK(X509_check_host(server.get(), name, 0, 0, nullptr) == 1);
  for (const char* name : {"cube.example", "a.b.cube.local"})
    CHECK(X509_check_host(server.get(), name, 0, 0, nullptr) == 0);
  for (const char* address : {"127.0.0.1", "::1"}) CHECK(X509_check_ip_asc(server.get(), address, 0) == 1);
  CHECK(X509_check_purpose(server.get(), X509_PURPOSE_SSL_SERVER, 0) == 1);
  CHECK(X509_check_ca(server.get()) == 0);

  const Certificate authority = load(fixture.files.authority);
  CHECK(X509_check_ca(authority.get()) == 1);
  CHECK(X509_check_issued(authority.get(), server.get()) == X509_V_OK);
  CHECK(X509_verify(server.get(), X509_get0_pubkey(authority.get())) == 1);
}

TEST_CASE("the authority is used again, also for another domain; the server's key is not") {
  Fixture fixture;
  make(fixture.request);
  const std::string authority = text_of(fixture.files.authority);
  const std::string server_key = text_of(fixture.files.server_key);
  fixture.request.domain = "other.test";
  CHECK_FALSE(make(fixture.request));
  CHECK(text_of(fixture.files.authority) == authority);
  CHECK(text_of(fixture.files.server_key) != server_key);
  CHECK(X509_check_host(load(fixture.files.server).get(), "x.other.test", 0, 0, nullptr) == 1);
}

TEST_CASE("an authority that cannot be used is an error that names the file, and nothing changes") {
  Fixture fixture;
  make(fixture.request);
  const std::string server = text_of(fixture.files.server);
  SECTION("damaged") {
    std::ofstream(fixture.files.authority) << "nonsense";
    CHECK(failure(fixture.request).find(fixture.files.authority) != std::string::npos);
  }
  SECTION("its key is missing") {
    std::filesystem::remove(fixture.files.authority_key);
    CHECK(failure(fixture.request).find(fixture.files.authority_key) != std::string::npos);
  }
  SECTION("another's key") {
    std::filesystem::copy_file(fixture.files.server_key, fixture.files.authority_key,
                               std::filesystem::copy_options::overwrite_existing);
    CHECK(failure(fixture.request).find("not the key of") != std::string::npos);
  }
  SECTION("not an authority") {
    std::filesystem::copy_file(fixture.files.server_key, fixture.files.authority_key,
                               std::filesystem::copy_options::overwrite_existing);
    std::filesystem::copy_file(fixture.files.server, fixture.files.authority,
                               std::filesystem::copy_options::overwrite_existing);
    CHECK(failure(fixture.request).find("not an authority") != std::string::npos);
  }
  SECTION("it ends before the certificate would") {
    fixture.request.days = 20'000;
    CHECK(failure(fixture.request).find("ends before") != std::string::npos);
  }
  CHECK(text_of(fixture.files.server) == server);
}

TEST_CASE("domains are names without ports or wildcards") {
  for (const char* domain : {"cube.local", "localhost", "a-1.b.c"}) CHECK(is_domain(domain));
  for (const char* domain :
       {"", ".", "a.", ".a", "a..b", "-a", "a-", "a_b", "A.b", "*.a", "a:3000", "a,DNS:b", "a\nb", "a/b"})
    CHECK_FALSE(is_domain(domain));
  CHECK_FALSE(is_domain(std::string(64, 'a')));
  Fixture fixture;
  fixture.request.domain = "a,DNS:evil.test";
  CHECK(failure(fixture.request).find("not a domain") != std::string::npos);
  CHECK_FALSE(std::filesystem::exists(fixture.request.directory));
}
