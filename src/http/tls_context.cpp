#include "http/tls_context.hpp"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <array>
#include <ctime>

#include "http/tls_engine.hpp"

namespace cube::http {
namespace {

constexpr std::size_t file_limit = 1 << 20;
constexpr int chain_limit = 16;

// For TLS 1.2; version 1.3 has only ciphers of this kind. HTTP/2 forbids the others (RFC 9113, appendix A).
constexpr const char* cipher_list = "ECDHE+AESGCM:ECDHE+CHACHA20";

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using BioPointer = std::unique_ptr<BIO, Free>;
using CertificatePointer = std::unique_ptr<X509, Free>;
using KeyPointer = std::unique_ptr<EVP_PKEY, Free>;

Error refused(std::string message, const std::string& object) {
  return make_error(ErrorCode::invalid_argument, std::move(message), object);
}

// OpenSSL would ask on the terminal.
int no_password(char*, int, int, void* asked) {
  *static_cast<bool*>(asked) = true;
  return -1;
}

Result<BioPointer> open_text(const std::string& text) {
  BioPointer bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  if (!bio) return make_error(ErrorCode::resource_exhausted, "out of memory");
  return bio;
}

Result<void> use_certificates(SSL_CTX* context, const std::string& file) {
  const auto text = read_file(file, file_limit);
  if (!text) return text.error();
  const auto bio = open_text(*text);
  if (!bio) return bio.error();
  for (int count = 0;; ++count) {
    CertificatePointer certificate(PEM_read_bio_X509(bio->get(), nullptr, nullptr, nullptr));
    if (!certificate) {
      // The end of the file is the one reason for which there may be no further certificate.
      const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
      const std::string reason = take_openssl_errors();
      if (count > 0 && at_end) return {};
      return refused(at_end ? "no certificate in PEM form (-----BEGIN CERTIFICATE-----)"
                            : "damaged certificate: " + reason,
                     file);
    }
    if (count >= chain_limit)
      return refused("more than " + std::to_string(chain_limit) + " certificates", file);
    const bool used = count == 0 ? SSL_CTX_use_certificate(context, certificate.get()) == 1
                                 : SSL_CTX_add1_chain_cert(context, certificate.get()) == 1;
    if (!used) return refused("the certificate cannot be used: " + take_openssl_errors(), file);
  }
}

Result<void> use_key(SSL_CTX* context, const std::string& file, const std::string& certificate_file) {
  auto text = read_file(file, file_limit);
  if (!text) return std::move(text).error();
  const auto bio = open_text(*text);
  if (!bio) return bio.error();
  bool encrypted = false;
  const KeyPointer key(PEM_read_bio_PrivateKey(bio->get(), nullptr, no_password, &encrypted));
  OPENSSL_cleanse(text->data(), text->size());
  if (!key) {
    const std::string reason = take_openssl_errors();
    if (encrypted) return refused("the key is encrypted; store it without a password (mode 0600)", file);
    return refused("no private key in PEM form: " + reason, file);
  }
  // Compared here, because OpenSSL would silently drop a certificate that does not match.
  if (X509_check_private_key(SSL_CTX_get0_certificate(context), key.get()) != 1) {
    ERR_clear_error();
    return refused("the key does not belong to the certificate in " + certificate_file, file);
  }
  if (SSL_CTX_use_PrivateKey(context, key.get()) != 1)
    return refused("the key cannot be used: " + take_openssl_errors(), file);
  return {};
}

int choose_protocol(SSL*, const unsigned char** chosen, unsigned char* length, const unsigned char* offered,
                    unsigned offered_length, void*) {
  static constexpr unsigned char ours[] = "\x02h2\x08http/1.1";
  unsigned char* found = nullptr;
  const int outcome = SSL_select_next_proto(&found, length, ours, sizeof ours - 1, offered, offered_length);
  *chosen = found;
  return outcome == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

}  // namespace

Result<ContextPointer> make_tls_context(const std::string& certificate_file, const std::string& key_file) {
  // The host's configuration could load modules, which a static program cannot.
  OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, nullptr);
  ContextPointer context(SSL_CTX_new(TLS_server_method()));
  if (!context) return make_error(ErrorCode::internal, "cannot set up TLS: " + take_openssl_errors());
  const bool configured = SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION) == 1 &&
                          SSL_CTX_set_cipher_list(context.get(), cipher_list) == 1;
  if (!configured) return make_error(ErrorCode::internal, "cannot set up TLS: " + take_openssl_errors());
  SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  // An idle connection keeps no buffers; a resumed one is remembered by the client's ticket, not here.
  SSL_CTX_set_mode(context.get(), SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_alpn_select_cb(context.get(), choose_protocol, nullptr);
  CUBE_TRY(use_certificates(context.get(), certificate_file));
  CUBE_TRY(use_key(context.get(), key_file, certificate_file));
  return context;
}

std::string certificate_end(SSL_CTX* context) {
  std::tm end{};
  const X509* certificate = SSL_CTX_get0_certificate(context);
  if (certificate == nullptr || ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &end) != 1) return "unknown";
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &end);
  return text.data();
}

}  // namespace cube::http
