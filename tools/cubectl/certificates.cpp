#include "certificates.hpp"

#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>
#include <memory>
#include <optional>

namespace cube::cubectl {
namespace {

constexpr int authority_days = 3650;
constexpr long backdating = 3600;  // seconds: clocks of clients differ
constexpr std::size_t file_limit = 1 << 20;

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  void operator()(X509_EXTENSION* extension) const { X509_EXTENSION_free(extension); }
  void operator()(BIGNUM* number) const { BN_free(number); }
};
template <class T>
using Owned = std::unique_ptr<T, Free>;

struct Identity {
  Owned<X509> certificate;
  Owned<EVP_PKEY> key;
};

Error openssl_error(const std::string& what, const std::string& object = {}) {
  const unsigned long code = ERR_get_error();
  const char* reason = ERR_reason_error_string(code);
  ERR_clear_error();
  return make_error(ErrorCode::internal, what + (reason != nullptr ? std::string(": ") + reason : ""),
                    object);
}

// --- Making --------------------------------------------------------------------------------------

Result<void> set_serial(X509* certificate) {
  // 127 bits: positive, and never the same twice.
  std::array<unsigned char, 16> bytes{};
  if (RAND_bytes(bytes.data(), bytes.size()) != 1) return openssl_error("no random numbers");
  bytes[0] = static_cast<unsigned char>((bytes[0] & 0x7f) | 0x40);
  const Owned<BIGNUM> number(BN_bin2bn(bytes.data(), bytes.size(), nullptr));
  if (!number || BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate)) == nullptr)
    return openssl_error("cannot set the serial number");
  return {};
}

Result<void> set_name(X509_NAME* name, const std::string& common_name) {
  const auto add = [&](const char* field, const std::string& value) {
    return X509_NAME_add_entry_by_txt(name, field, MBSTRING_UTF8,
                                      reinterpret_cast<const unsigned char*>(value.data()),
                                      static_cast<int>(value.size()), -1, 0) == 1;
  };
  // A common name has at most 64 characters; clients look at the alternative names anyway.
  if (!add("O", "cubed") || !add("CN", common_name.substr(0, 64)))
    return openssl_error("cannot set the name");
  return {};
}

Result<void> add_extension(X509* certificate, X509* issuer, int id, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const Owned<X509_EXTENSION> extension(X509V3_EXT_conf_nid(nullptr, &context, id, value.c_str()));
  if (!extension || X509_add_ext(certificate, extension.get(), -1) != 1)
    return openssl_error("cannot set the extension", OBJ_nid2sn(id));
  return {};
}

/// A key and a certificate for it that only lacks extensions and signature.
Result<Identity> make_identity(const std::string& name, int days) {
  Identity made{Owned<X509>(X509_new()), Owned<EVP_PKEY>(EVP_EC_gen("P-256"))};
  X509* const certificate = made.certificate.get();
  const bool set = certificate != nullptr && made.key && X509_set_version(certificate, X509_VERSION_3) == 1 &&
                   X509_gmtime_adj(X509_getm_notBefore(certificate), -backdating) != nullptr &&
                   X509_gmtime_adj(X509_getm_notAfter(certificate), long{days} * 24 * 3600) != nullptr &&
                   X509_set_pubkey(certificate, made.key.get()) == 1;
  if (!set) return openssl_error("cannot make a key");
  CUBE_TRY(set_serial(certificate));
  CUBE_TRY(set_name(X509_get_subject_name(certificate), name));
  return made;
}

Result<void> sign(X509* certificate, X509* issuer, EVP_PKEY* key) {
  if (X509_set_issuer_name(certificate, X509_get_subject_name(issuer)) != 1 ||
      X509_sign(certificate, key, EVP_sha256()) == 0)
    return openssl_error("cannot sign the certificate");
  return {};
}

Result<Identity> make_authority(int days) {
  std::array<char, 65> host{};
  ::gethostname(host.data(), host.size() - 1);
  auto made =
      make_identity("cubed local authority of " + std::string(host.data()), std::max(days, authority_days));
  if (!made) return made;
  X509* const certificate = made->certificate.get();
  CUBE_TRY(add_extension(certificate, certificate, NID_basic_constraints, "critical,CA:TRUE,pathlen:0"));
  CUBE_TRY(add_extension(certificate, certificate, NID_key_usage, "critical,keyCertSign,cRLSign"));
  CUBE_TRY(add_extension(certificate, certificate, NID_subject_key_identifier, "hash"));
  CUBE_TRY(sign(certificate, certificate, made->key.get()));
  return made;
}

Result<Identity> make_server(const Identity& authority, const std::string& domain, int days) {
  auto made = make_identity(domain, days);
  if (!made) return made;
  X509* const certificate = made->certificate.get();
  X509* const issuer = authority.certificate.get();
  // The issuer's name before the extensions: the authority's key identifier is looked up by it.
  if (X509_set_issuer_name(certificate, X509_get_subject_name(issuer)) != 1)
    return openssl_error("cannot name the issuer");
  std::string names = "DNS:" + domain + ",DNS:*." + domain;
  if (domain != "localhost") names += ",DNS:localhost";
  CUBE_TRY(add_extension(certificate, issuer, NID_basic_constraints, "critical,CA:FALSE"));
  CUBE_TRY(add_extension(certificate, issuer, NID_key_usage, "critical,digitalSignature"));
  CUBE_TRY(add_extension(certificate, issuer, NID_ext_key_usage, "serverAuth"));
  CUBE_TRY(add_extension(certificate, issuer, NID_subject_alt_name, names + ",IP:127.0.0.1,IP:::1"));
  CUBE_TRY(add_extension(certificate, issuer, NID_subject_key_identifier, "hash"));
  CUBE_TRY(add_extension(certificate, issuer, NID_authority_key_identifier, "keyid:always"));
  CUBE_TRY(sign(certificate, issuer, authority.key.get()));
  return made;
}

// --- Files ---------------------------------------------------------------------------------------

template <class Write>
Result<std::string> to_pem(Write write) {
  const Owned<BIO> bio(BIO_new(BIO_s_secmem()));
  char* text = nullptr;
  if (!bio || !write(bio.get())) return openssl_error("cannot write PEM");
  const long size = BIO_get_mem_data(bio.get(), &text);
  return std::string(text, static_cast<std::size_t>(size));
}

Result<std::string> certificate_text(const Identity& identity) {
  return to_pem([&](BIO* bio) { return PEM_write_bio_X509(bio, identity.certificate.get()) == 1; });
}

Result<void> write_key(const std::string& path, const Identity& identity) {
  auto text = to_pem([&](BIO* bio) {
    return PEM_write_bio_PrivateKey(bio, identity.key.get(), nullptr, nullptr, 0, nullptr, nullptr) == 1;
  });
  if (!text) return std::move(text).error();
  const auto written = write_file_atomically(path, *text, 0600);
  OPENSSL_cleanse(text->data(), text->size());
  return written;
}

Error unusable(const std::string& why, const std::string& path) {
  return make_error(
      ErrorCode::invalid_argument,
      why + ": remove it and its companion to make a new authority, which clients must then trust anew",
      path);
}

/// The authority that is there; nothing if there is none.
Result<std::optional<Identity>> load_authority(const CertificateFiles& files) {
  const auto certificate = read_file(files.authority, file_limit);
  auto key = read_file(files.authority_key, file_limit);
  const auto missing = [](const auto& file) {
    return !file.ok() && file.error().code == ErrorCode::not_found;
  };
  if (missing(certificate) && missing(key)) return std::optional<Identity>();
  if (missing(certificate)) return unusable("missing beside its key", files.authority);
  if (missing(key)) return unusable("missing beside its certificate", files.authority_key);
  if (!certificate.ok()) return certificate.error();
  if (!key.ok()) return std::move(key).error();
  const auto open = [](const std::string& text) {
    return Owned<BIO>(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  };
  const auto no_password = [](char*, int, int, void*) { return -1; };
  Identity found{Owned<X509>(PEM_read_bio_X509(open(*certificate).get(), nullptr, nullptr, nullptr)),
                 Owned<EVP_PKEY>(PEM_read_bio_PrivateKey(open(*key).get(), nullptr, no_password, nullptr))};
  OPENSSL_cleanse(key->data(), key->size());
  ERR_clear_error();
  if (!found.certificate) return unusable("no certificate in PEM form", files.authority);
  if (!found.key) return unusable("no private key in PEM form", files.authority_key);
  if (X509_check_private_key(found.certificate.get(), found.key.get()) != 1) {
    ERR_clear_error();
    return unusable("not the key of " + files.authority, files.authority_key);
  }
  if (X509_check_ca(found.certificate.get()) != 1)
    return unusable("not an authority's certificate", files.authority);
  return std::optional<Identity>(std::move(found));
}

bool ends_before(const Identity& authority, int days) {
  std::time_t end = std::time(nullptr) + std::time_t{days} * 24 * 3600;
  return X509_cmp_time(X509_get0_notAfter(authority.certificate.get()), &end) < 0;
}

Result<void> make_directory(const std::string& path) {
  if (::mkdir(path.c_str(), 0755) == 0 || errno == EEXIST) return {};
  return os_error(errno, "cannot create the directory", path);
}

Result<Identity> store_new_authority(const CertificateFiles& files, int days) {
  auto made = make_authority(days);
  if (!made) return made;
  const auto text = certificate_text(*made);
  if (!text) return text.error();
  CUBE_TRY(write_key(files.authority_key, *made));
  CUBE_TRY(write_file_atomically(files.authority, *text, 0644));
  return made;
}

}  // namespace

bool is_domain(const std::string& text) {
  if (text.empty() || text.size() > 200) return false;
  std::size_t start = 0;
  while (start <= text.size()) {
    const std::size_t end = std::min(text.find('.', start), text.size());
    const std::string label = text.substr(start, end - start);
    const bool allowed = std::ranges::all_of(
        label, [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; });
    if (label.empty() || label.size() > 63 || !allowed || label.front() == '-' || label.back() == '-')
      return false;
    start = end + 1;
  }
  return true;
}

Result<bool> make_certificates(const CertificateRequest& request) {
  if (!is_domain(request.domain))
    return make_error(ErrorCode::invalid_argument,
                      "not a domain of labels a-z, 0-9 and '-' (without a port), for example cube.local",
                      request.domain);
  OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, nullptr);
  const CertificateFiles files(request.directory);
  CUBE_TRY(make_directory(request.directory));
  auto authority = load_authority(files);
  if (!authority) return std::move(authority).error();
  const bool is_new = !authority->has_value();
  if (is_new) {
    auto made = store_new_authority(files, request.days);
    if (!made) return std::move(made).error();
    authority->emplace(std::move(*made));
  } else if (ends_before(**authority, request.days)) {
    return unusable("the authority ends before the certificate would (fewer --days, or a new one)",
                    files.authority);
  }
  const auto server = make_server(**authority, request.domain, request.days);
  if (!server) return server.error();
  const auto text = certificate_text(*server);
  if (!text) return text.error();
  const auto chain = certificate_text(**authority);
  if (!chain) return chain.error();
  CUBE_TRY(write_key(files.server_key, *server));
  CUBE_TRY(write_file_atomically(files.server, *text + *chain, 0644));
  return is_new;
}

}  // namespace cube::cubectl
