#include "init.hpp"

#include <fcntl.h>
#include <linux/random.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <ctime>
#include <optional>

#include "names.hpp"

namespace cube::agent {
namespace {

constexpr std::size_t entropy_bytes = 64;

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

}  // namespace

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
