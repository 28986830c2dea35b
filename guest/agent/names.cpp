#include "names.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <span>

namespace cube::agent {
namespace {

constexpr std::size_t file_limit = 1 << 20;
constexpr const char* memory_directory = "/run/cube";  // a tmpfs

std::string in_memory(const std::string& name) { return std::string(memory_directory) + "/" + name; }

/// Whether there was a plain file that could be written over.
bool write_over(const std::string& path, std::string_view content) {
  const auto file = open_file(path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK);
  struct stat status {};
  if (!file || ::fstat(file->get(), &status) != 0 || !S_ISREG(status.st_mode)) return false;
  if (!write_exactly(file->get(), std::as_bytes(std::span(content)), 0)) return false;
  const auto size = static_cast<off_t>(content.size());
  return status.st_size <= size || ::ftruncate(file->get(), size) == 0;
}

/// Puts what `make` makes at another path in the place of `path`.
template <class Make>
Result<void> replace(const std::string& path, Make make) {
  const std::string temporary = path + ".new";
  ::unlink(temporary.c_str());
  CUBE_TRY(make(temporary));
  if (::rename(temporary.c_str(), path.c_str()) != 0) return os_error(errno, "cannot replace", path);
  return {};
}

/// Every page and block touched is one more the clone does not share: what is right already is left alone,
/// and what is not is written over in place, which allocates no inode and no block. Not synced: a sandbox's
/// disk does not outlive its memory.
Result<void> put_file(const std::string& path, std::string_view content) {
  if (const auto current = read_file(path, file_limit); current && *current == content) return {};
  if (write_over(path, content)) return {};
  return replace(path, [&](const std::string& temporary) -> Result<void> {
    auto file = open_file(temporary, O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (!file) return std::move(file).error();
    return write_exactly(file->get(), std::as_bytes(std::span(content)), 0);
  });
}

/// Where /etc/`name` is kept: in memory, unless somebody has put a file of their own in its place.
std::string place_of(const std::string& root, const std::string& name) {
  const std::string link = root + "/etc/" + name;
  std::array<char, 64> target{};
  const ssize_t length = ::readlink(link.c_str(), target.data(), target.size());
  const bool ours =
      length > 0 && std::string_view(target.data(), static_cast<std::size_t>(length)) == in_memory(name);
  return ours ? root + in_memory(name) : link;
}

Result<void> make_directory(const std::string& path) {
  if (::mkdir(path.c_str(), 0755) == 0 || errno == EEXIST) return {};
  return os_error(errno, "cannot create", path);
}

Result<void> keep_in_memory(const std::string& root, const std::string& name) {
  const std::string link = root + "/etc/" + name;
  const auto current = read_file(link, file_limit);
  CUBE_TRY(put_file(root + in_memory(name), current ? *current : std::string()));
  if (place_of(root, name) != link) return {};
  return replace(link, [&](const std::string& temporary) -> Result<void> {
    if (::symlink(in_memory(name).c_str(), temporary.c_str()) == 0) return {};
    return os_error(errno, "cannot create", temporary);
  });
}

/// Cuts the first line off, without its end.
std::string_view take_line(std::string_view& text) {
  const std::string_view line = text.substr(0, text.find('\n'));
  text.remove_prefix(std::min(text.size(), line.size() + 1));
  return line;
}

/// Whether the C library finds the host's own name without /etc/hosts (nss-myhostname(8)).
bool resolves_its_name(const std::string& root) {
  const auto text = read_file(root + "/etc/nsswitch.conf", file_limit);
  if (!text) return false;
  std::string_view rest = *text;
  while (!rest.empty()) {
    const std::string_view line = take_line(rest);
    if (line.starts_with("hosts:")) return line.find("myhostname") != line.npos;
  }
  return false;
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
    const std::string_view line = take_line(hosts);
    if (names_address(line, "127.0.1.1")) continue;
    has_localhost |= names_address(line, "127.0.0.1");
    others.append(line).append("\n");
  }
  std::string text;
  if (!has_localhost) text += "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";
  text.append("127.0.1.1 ").append(name).append("\n");
  return text + others;
}

Result<void> keep_names_in_memory(const std::string& root) {
  CUBE_TRY(make_directory(root + memory_directory));
  CUBE_TRY(keep_in_memory(root, "hostname"));
  return keep_in_memory(root, "machine-id");
}

Result<void> write_names(const std::string& root, const guest::InitRequest& request) {
  CUBE_TRY(put_file(place_of(root, "hostname"), request.sandbox_id + "\n"));
  if (!resolves_its_name(root)) {
    const auto hosts = read_file(root + "/etc/hosts", file_limit);
    CUBE_TRY(
        put_file(root + "/etc/hosts", hosts_with_name(hosts ? *hosts : std::string(), request.sandbox_id)));
  }
  if (request.new_identity) CUBE_TRY(put_file(place_of(root, "machine-id"), random_hex(16) + "\n"));
  const std::string directory = root + "/run/e2b";
  CUBE_TRY(make_directory(directory));
  CUBE_TRY(put_file(directory + "/.E2B_SANDBOX", "true"));
  CUBE_TRY(put_file(directory + "/.E2B_SANDBOX_ID", request.sandbox_id));
  return put_file(directory + "/.E2B_TEMPLATE_ID", request.template_id);
}

}  // namespace cube::agent
