#include "metrics.hpp"

#include <sys/statvfs.h>
#include <unistd.h>

#include <charconv>
#include <cmath>
#include <ctime>
#include <cube/core.hpp>

namespace cube::agent {
namespace {

std::string content_of(const char* path) {
  auto text = read_file(path, 1 << 20);
  return text ? std::move(*text) : std::string();
}

/// Skips spaces and takes a number off the front; 0 if there is none.
std::uint64_t take_number(std::string_view& text) {
  text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return error == std::errc{} ? value : 0;
}

std::uint64_t kilobytes_of(std::string_view meminfo, std::string_view name) {
  const std::string label = "\n" + std::string(name) + ":";
  const std::string text = "\n" + std::string(meminfo);
  const auto at = text.find(label);
  if (at == std::string::npos) return 0;
  std::string_view rest = std::string_view(text).substr(at + label.size());
  return take_number(rest);
}

}  // namespace

double CpuUsage::sample(std::string_view stat) {
  if (!stat.starts_with("cpu ")) return 0;
  stat.remove_prefix(4);
  // user nice system idle iowait irq softirq steal
  std::uint64_t busy = 0;
  std::uint64_t total = 0;
  for (int column = 0; column < 8; ++column) {
    const std::uint64_t ticks = take_number(stat);
    total += ticks;
    if (column != 3 && column != 4) busy += ticks;
  }
  const double share = total > total_ && busy >= busy_
                           ? 100.0 * static_cast<double>(busy - busy_) / static_cast<double>(total - total_)
                           : 0.0;
  busy_ = busy;
  total_ = total;
  return std::min(share, 100.0);
}

MemoryUsage memory_usage(std::string_view meminfo) {
  MemoryUsage usage;
  usage.total = kilobytes_of(meminfo, "MemTotal") << 10;
  usage.cache = (kilobytes_of(meminfo, "Cached") + kilobytes_of(meminfo, "SReclaimable")) << 10;
  const std::uint64_t unused =
      ((kilobytes_of(meminfo, "MemFree") + kilobytes_of(meminfo, "Buffers")) << 10) + usage.cache;
  usage.used = usage.total > unused ? usage.total - unused : 0;
  return usage;
}

std::string metrics_json(CpuUsage& usage) {
  const double cpu = usage.sample(content_of("/proc/stat"));
  const MemoryUsage memory = memory_usage(content_of("/proc/meminfo"));
  struct statvfs disk {};
  ::statvfs("/", &disk);
  JsonWriter json;
  json.begin_object();
  json.key("ts").value(static_cast<std::int64_t>(::time(nullptr)));
  json.key("cpu_count").value(::sysconf(_SC_NPROCESSORS_ONLN));
  json.key("cpu_used_pct").value(std::round(cpu * 100) / 100);
  json.key("mem_total")
      .value(memory.total)
      .key("mem_used")
      .value(memory.used)
      .key("mem_cache")
      .value(memory.cache);
  json.key("mem_total_mib").value(memory.total >> 20).key("mem_used_mib").value(memory.used >> 20);
  json.key("disk_used").value(static_cast<std::uint64_t>(disk.f_blocks - disk.f_bfree) * disk.f_frsize);
  json.key("disk_total").value(static_cast<std::uint64_t>(disk.f_blocks) * disk.f_frsize);
  return json.end_object().take();
}

}  // namespace cube::agent
