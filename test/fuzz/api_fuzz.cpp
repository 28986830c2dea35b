// What strangers send the API and the proxy before anything else is known of them: bodies, queries, hosts,
// paths. And what guests tell of themselves.
#include <cstdint>
#include <string_view>

#include "api/image_request.hpp"
#include "api/list_query.hpp"
#include "api/network_request.hpp"
#include "api/observation_query.hpp"
#include "api/sandbox_requests.hpp"
#include "api/time_text.hpp"
#include "proxy/headers.hpp"
#include "proxy/signed_url.hpp"
#include "proxy/target.hpp"

using namespace cube;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 9) {
    case 0: {
      const auto request = api::parse_create(text, api::Generation::v2);
      if (request.ok() && (request->timeout.count() <= 0 || request->timeout > node::longest_timeout))
        __builtin_trap();
      break;
    }
    case 1: {
      static_cast<void>(api::parse_connect(text, api::Generation::v1).ok());
      static_cast<void>(api::parse_timeout(text).ok());
      static_cast<void>(api::parse_refresh(text).ok());
      break;
    }
    case 2: {
      const auto request = api::parse_image_request(text, "/images");
      if (request.ok() && request->rootfs_path.find('/', 8) != std::string::npos) __builtin_trap();
      break;
    }
    case 3: {
      const auto query = api::parse_list_query(text);
      if (query.ok()) static_cast<void>(api::select_page({}, *query));
      static_cast<void>(api::parse_first_list_query(text).ok());
      break;
    }
    case 4: {
      const auto cursor = api::parse_cursor(text);
      if (!cursor.ok()) break;
      const auto again = api::parse_cursor(api::write_cursor(*cursor));
      if (!again.ok() || again->started_at != cursor->started_at || again->id != cursor->id) __builtin_trap();
      break;
    }
    case 5: {
      const auto metrics = api::parse_metrics_query(text);
      if (metrics.ok() && metrics->first > metrics->last) __builtin_trap();
      const auto ids = api::parse_sandbox_ids(text);
      if (ids.ok() && (ids->empty() || ids->size() > 100)) __builtin_trap();
      static_cast<void>(api::parse_first_logs_query(text).ok());
      const auto logs = api::parse_logs_query(text);
      if (logs.ok() && logs->limit > 1000) __builtin_trap();
      break;
    }
    case 6: {
      const auto metric = node::parse_metric(text);
      if (metric.ok() && !(metric->cpu_used_percent >= 0 && metric->cpu_used_percent <= 100))
        __builtin_trap();
      const auto journal = node::parse_journal(text);
      if (!journal.ok()) break;
      for (const node::LogEntry& entry : *journal)
        if (!api::parse_date(api::date_text(entry.at))) __builtin_trap();
      break;
    }
    case 7: {
      const auto rules = api::parse_network_update(text);
      if (rules.ok())
        for (const std::string& destination : rules->deny_out)
          if (!api::is_destination(destination)) __builtin_trap();
      static_cast<void>(api::is_domain_pattern(text));
      if (api::is_host_mask(text)) {
        http::Headers headers;
        proxy::mask_host(headers, text, 65535);
        if (headers.get("Host")->find_first_of("\r\n/@ ${}") != std::string_view::npos) __builtin_trap();
      }
      const auto url = proxy::parse_signed_url({"GET", "/files?" + text, {}});
      if (const auto* parsed = std::get_if<proxy::SignedUrl>(&url))
        static_cast<void>(proxy::is_signed_with(*parsed, "token"));
      break;
    }
    default: {
      http::RequestHead head{"GET", "/" + text, {}};
      head.headers.add("Host", text);
      head.headers.add("Connection", text);
      const auto destination = proxy::find_destination(head);
      if (const auto* target = std::get_if<proxy::Target>(&destination))
        if (target->sandbox_id.empty() || target->port == 0 || !target->request_target.starts_with('/'))
          __builtin_trap();
      static_cast<void>(proxy::is_internal_envd_path(text));
      static_cast<void>(proxy::forwarded_request(head, "/", true));
    }
  }
  return 0;
}
