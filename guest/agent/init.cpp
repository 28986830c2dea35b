#include "init.hpp"

#include <fcntl.h>
#include <linux/random.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstring>
#include <ctime>
#include <optional>
#include <span>

namespace cube::agent {
namespace {

constexpr std::size_t entropy_bytes = 64;
constexpr std::size_t file_limit = 1 << 20;

Error invalid(std::string message) { return make_error(ErrorCode::invalid_argument, std::move(message)); }

std::optional<std::array<std::uint8_t, entropy_bytes>> decode_hex(std::string_view text) {
  std::array<std::uint8_t, entropy_bytes> bytes{};
  if (text.size() != 2 * bytes.size()) return std::nullopt;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const char* first = text.data() + 2 * i;
    const auto [end, error] = std::from_chars(first, first + 2, bytes[i], 16);
    if (error != std::errc{} || end != first + 2) return std::nullopt;
  }
  return bytes;
}

/// Credits the pool and reseeds the generator: clones of one snapshot must not draw the same numbers
/// (random(4)).
Result<void> add_entropy(std::string_view hex) {
  const auto bytes = decode_hex(hex);
  if (!bytes) return invalid("entropy must be 64 bytes in hex");
  struct {
    int entropy_count;
    int buf_size;
    std::array<std::uint8_t, entropy_bytes> bytes;
  } pool{entropy_bytes * 8, entropy_bytes, *bytes};
  static_assert(sizeof pool == sizeof(rand_pool_info) + entropy_bytes);
  auto device = open_file("/dev/urandom", O_RDWR);
  if (!device) return std::move(device).error();
  if (::ioctl(device->get(), RNDADDENTROPY, &pool) != 0) return os_error(errno, "cannot add entropy");
  if (::ioctl(device->get(), RNDRESEEDCRNG, 0) != 0)
    return os_error(errno, "cannot reseed the random generator");
  return {};
}

constexpr std::int64_t second = 1'000'000'000;

/// What KVM says the host's clock shows at this moment (CONFIG_PTP_1588_CLOCK_KVM). Not every host can say.
std::optional<std::int64_t> host_time_ns() {
  const auto device = open_file("/dev/ptp0", O_RDONLY);
  if (!device) return std::nullopt;
  const clockid_t clock =
      static_cast<clockid_t>((~static_cast<unsigned>(device->get()) << 3) | 3);  // FD_TO_CLOCKID
  timespec now{};
  if (::clock_gettime(clock, &now) != 0) return std::nullopt;
  return now.tv_sec * second + now.tv_nsec;
}

/// The request's time is as old as the way here was long: tens of milliseconds, on a busy host more.
Result<void> set_clock(std::int64_t unix_time_ns) {
  const std::int64_t time = host_time_ns().value_or(unix_time_ns);
  const timespec now{time / second, time % second};
  if (::clock_settime(CLOCK_REALTIME, &now) != 0) return os_error(errno, "cannot set the clock");
  return {};
}

/// Whether there was a plain file that could be written over.
bool write_over(const std::string& path, std::string_view content) {
  const auto file = open_file(path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK);
  struct stat status {};
  if (!file || ::fstat(file->get(), &status) != 0 || !S_ISREG(status.st_mode)) return false;
  if (!write_exactly(file->get(), std::as_bytes(std::span(content)), 0)) return false;
  const auto size = static_cast<off_t>(content.size());
  return status.st_size <= size || ::ftruncate(file->get(), size) == 0;
}

/// Every page and block touched is one more the clone does not share: what is right already is left alone,
/// and what is not is written over in place, which allocates no inode and no block. Not synced: a sandbox's
/// disk does not outlive its memory.
Result<void> put_file(const std::string& path, std::string_view content) {
  if (const auto current = read_file(path, file_limit); current && *current == content) return {};
  if (write_over(path, content)) return {};
  const std::string temporary = path + ".new";
  ::unlink(temporary.c_str());
  auto file = open_file(temporary, O_WRONLY | O_CREAT | O_EXCL, 0644);
  if (!file) return std::move(file).error();
  CUBE_TRY(write_exactly(file->get(), std::as_bytes(std::span(content)), 0));
  if (::rename(temporary.c_str(), path.c_str()) != 0) return os_error(errno, "cannot replace", path);
  return {};
}

bool names_address(std::string_view line, std::string_view address) {
  return line.starts_with(address) && line.size() > address.size() &&
         (line[address.size()] == ' ' || line[address.size()] == '\t');
}

}  // namespace

std::string hosts_with_name(std::string_view hosts, std::string_view name) {
  std::string others;
  bool has_localhost = false;
  while (!hosts.empty()) {
    const auto newline = hosts.find('\n');
    const std::string_view line = hosts.substr(0, newline);
    hosts.remove_prefix(newline == std::string_view::npos ? hosts.size() : newline + 1);
    if (names_address(line, "127.0.1.1")) continue;
    has_localhost |= names_address(line, "127.0.0.1");
    others.append(line).append("\n");
  }
  std::string text;
  if (!has_localhost) text += "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";
  text.append("127.0.1.1 ").append(name).append("\n");
  return text + others;
}

Result<guest::InitRequest> parse_init(const JsonObject& message) {
  guest::InitRequest request{};
  const std::array<std::pair<const char*, std::string*>, 6> texts{
      {{"sandboxId", &request.sandbox_id},
       {"templateId", &request.template_id},
       {"entropy", &request.entropy_hex},
       {"accessToken", &request.access_token},
       {"defaultUser", &request.default_user},
       {"defaultWorkdir", &request.default_workdir}}};
  for (const auto& [name, target] : texts) {
    auto value = message.string(name);
    if (!value) return std::move(value).error();
    *target = std::move(*value);
  }
  auto time = message.integer("unixTimeNs");
  if (!time) return std::move(time).error();
  auto variables = message.string_map("envVars");
  if (!variables) return std::move(variables).error();
  auto new_identity = message.boolean("newIdentity");
  if (!new_identity) return std::move(new_identity).error();
  request.unix_time_ns = *time;
  if (message.has("envVars")) request.env_vars = std::move(*variables);
  request.new_identity = *new_identity;

  if (!is_sandbox_id(request.sandbox_id)) return invalid("sandboxId is not a sandbox id");
  if (request.unix_time_ns <= 0) return invalid("unixTimeNs must be the wall clock in nanoseconds");
  if (!decode_hex(request.entropy_hex)) return invalid("entropy must be 64 bytes in hex");
  return request;
}

Result<void> write_names(const std::string& root, const guest::InitRequest& request) {
  CUBE_TRY(put_file(root + "/etc/hostname", request.sandbox_id + "\n"));
  const auto hosts = read_file(root + "/etc/hosts", file_limit);
  CUBE_TRY(
      put_file(root + "/etc/hosts", hosts_with_name(hosts ? *hosts : std::string(), request.sandbox_id)));
  if (request.new_identity) CUBE_TRY(put_file(root + "/etc/machine-id", random_hex(16) + "\n"));
  const std::string directory = root + "/run/e2b";
  if (::mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST)
    return os_error(errno, "cannot create", directory);
  CUBE_TRY(put_file(directory + "/.E2B_SANDBOX", "true"));
  CUBE_TRY(put_file(directory + "/.E2B_SANDBOX_ID", request.sandbox_id));
  return put_file(directory + "/.E2B_TEMPLATE_ID", request.template_id);
}

Result<void> renew_machine(const guest::InitRequest& request) {
  CUBE_TRY(add_entropy(request.entropy_hex));
  CUBE_TRY(set_clock(request.unix_time_ns));
  if (::sethostname(request.sandbox_id.data(), request.sandbox_id.size()) != 0)
    return os_error(errno, "cannot set the host name");
  return write_names("", request);
}

Settings settings_after(guest::InitRequest request, Settings earlier) {
  Settings settings;
  settings.sandbox_id = std::move(request.sandbox_id);
  settings.template_id = std::move(request.template_id);
  settings.access_token = std::move(request.access_token);
  if (!request.default_user.empty()) settings.default_user = std::move(request.default_user);
  settings.default_workdir = std::move(request.default_workdir);
  settings.env_vars = request.env_vars ? std::move(*request.env_vars) : std::move(earlier.env_vars);
  return settings;
}

}  // namespace cube::agent
