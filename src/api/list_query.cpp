#include "api/list_query.hpp"

#include <algorithm>
#include <limits>

#include "api/query_parameters.hpp"

namespace cube::api {
namespace {

constexpr std::int64_t largest_limit = 100;

// SDKs encode names and values, join them, encode the whole, and their HTTP client encodes once more. That
// last layer is gone here.
Result<void> read_metadata(std::string_view text, ListQuery& query) {
  const auto pairs = unescape(text);
  if (!pairs) return parameter_error("metadata", "is not encoded correctly");
  for (std::string_view rest = *pairs; !rest.empty();) {
    const std::string_view pair = take_until(rest, '&');
    if (std::ranges::count(pair, '=') != 1)
      return parameter_error("metadata", "must be name=value pairs joined with &");
    const std::size_t equals = pair.find('=');
    auto name = unescape(pair.substr(0, equals));
    auto value = unescape(pair.substr(equals + 1));
    if (!name || !value) return parameter_error("metadata", "is not encoded correctly");
    query.metadata.insert_or_assign(std::move(*name), std::move(*value));
  }
  return {};
}

Result<void> read_states(std::string_view text, ListQuery& query) {
  query.running = query.paused = false;
  while (!text.empty()) {
    const std::string_view state = take_until(text, ',');
    if (state == "running")
      query.running = true;
    else if (state == "paused")
      query.paused = true;
    else
      return parameter_error("state", "must be running, paused or both with a comma");
  }
  return {};
}

Result<void> read_limit(std::string_view text, std::size_t& limit) {
  std::int64_t number = 0;
  CUBE_TRY(read_number("limit", text, {1, largest_limit}, number));
  limit = static_cast<std::size_t>(number);
  return {};
}

/// What every list that comes in pages has; other names are somebody else's.
template <class Query>
Result<void> read_page_parameter(std::string_view name, std::string_view value, Query& query) {
  if (name == "limit") return read_limit(value, query.limit);
  if (name != "nextToken") return {};
  auto cursor = parse_cursor(value);
  if (!cursor.ok()) return cursor.error();
  query.after = std::move(*cursor);
  return {};
}

Result<void> read_parameter(std::string_view name, std::string_view value, ListQuery& query) {
  if (value.empty()) return {};  // "state=" asks for nothing
  if (name == "metadata") return read_metadata(value, query);
  if (name == "state") return read_states(value, query);
  if (name == "order") {
    if (value != "asc" && value != "desc") return parameter_error("order", "must be asc or desc");
    query.ascending = value == "asc";
  } else if (name == "startedAfter") {
    query.started_after = parse_date(value);
    if (!query.started_after)
      return parameter_error("startedAfter", "must be a date as in 2026-01-02T03:04:05Z");
  } else if (name == "template") {
    if (value.find(':') != std::string_view::npos)
      return parameter_error("template", "must be a template's id or name, without a tag");
    query.template_ref = value;
  } else {
    return read_page_parameter(name, value, query);
  }
  return {};
}

bool matches(const node::SandboxInfo& info, const ListQuery& query) {
  const bool paused = info.state == node::SandboxState::paused;
  if (paused ? !query.paused : !query.running) return false;
  if (query.started_after && info.started_at < *query.started_after) return false;
  if (!query.template_ref.empty() && info.template_id != query.template_ref &&
      info.template_name != query.template_ref)
    return false;
  return std::ranges::all_of(query.metadata, [&](const auto& wanted) {
    const auto found = info.metadata.find(wanted.first);
    return found != info.metadata.end() && found->second == wanted.second;
  });
}

// Sandboxes that started at the same time are in the order of their ids, whichever way the list runs.
struct ListOrder {
  bool ascending;
  template <class A, class B>
  bool operator()(const A& a, const B& b) const {
    if (a.started_at != b.started_at)
      return ascending ? a.started_at < b.started_at : a.started_at > b.started_at;
    return a.id < b.id;
  }
};

constexpr std::string_view base64url = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

std::string encode_base64url(std::string_view bytes) {
  std::string text;
  unsigned bits = 0, count = 0;
  for (const char byte : bytes) {
    bits = bits << 8 | static_cast<unsigned char>(byte);
    for (count += 8; count >= 6; count -= 6) text += base64url[bits >> (count - 6) & 63];
  }
  if (count > 0) text += base64url[bits << (6 - count) & 63];
  return text;
}

std::optional<std::string> decode_base64url(std::string_view text) {
  while (text.ends_with('=')) text.remove_suffix(1);
  std::string bytes;
  unsigned bits = 0, count = 0;
  for (const char c : text) {
    const std::size_t digit = base64url.find(c);
    if (digit == std::string_view::npos) return std::nullopt;
    bits = bits << 6 | static_cast<unsigned>(digit);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes += static_cast<char>(bits >> count & 255);
  }
  return bytes;
}

}  // namespace

std::string write_cursor(const Cursor& cursor) {
  return encode_base64url(exact_date_text(cursor.started_at) + "__" + cursor.id +
                          (cursor.ascending ? "__asc" : ""));
}

Result<Cursor> parse_cursor(std::string_view token) {
  const Error malformed = parameter_error("nextToken", "is not one that this server gave out");
  const auto text = decode_base64url(token);
  if (!text) return malformed;
  std::string_view rest = *text;
  Cursor cursor;
  cursor.ascending = rest.ends_with("__asc");
  if (cursor.ascending) rest.remove_suffix(5);
  const std::size_t separator = rest.find("__");
  if (separator == std::string_view::npos) return malformed;
  const auto time = parse_date(rest.substr(0, separator));
  cursor.id = rest.substr(separator + 2);
  if (!time || cursor.id.empty() || !is_lowercase(cursor.id)) return malformed;
  cursor.started_at = *time;
  return cursor;
}

Result<ListQuery> parse_list_query(std::string_view text) {
  auto parameters = read_parameters(text);
  if (!parameters.ok()) return parameters.error();
  ListQuery query;
  for (const auto& [name, value] : *parameters) CUBE_TRY(read_parameter(name, value, query));
  if (!query.after) return query;
  const auto order = parameters->find("order");
  const bool other_order =
      order != parameters->end() && !order->second.empty() && query.ascending != query.after->ascending;
  if (other_order) return parameter_error("nextToken", "belongs to a list in the other order");
  query.ascending = query.after->ascending;
  return query;
}

Result<ListQuery> parse_first_list_query(std::string_view text) {
  auto parameters = read_parameters(text);
  if (!parameters.ok()) return parameters.error();
  ListQuery query;
  query.paused = false;
  query.limit = std::numeric_limits<std::size_t>::max();
  if (const auto metadata = parameters->find("metadata"); metadata != parameters->end())
    CUBE_TRY(read_metadata(metadata->second, query));
  return query;
}

Page select_page(std::vector<node::SandboxInfo> sandboxes, const ListQuery& query) {
  std::erase_if(sandboxes, [&](const auto& info) { return !matches(info, query); });
  Page page;
  page.total_running = static_cast<std::size_t>(std::ranges::count_if(
      sandboxes, [](const auto& info) { return info.state != node::SandboxState::paused; }));
  const ListOrder order{query.ascending};
  std::ranges::sort(sandboxes, order);
  auto first = sandboxes.begin();
  if (query.after) first = std::upper_bound(first, sandboxes.end(), *query.after, order);
  sandboxes.erase(sandboxes.begin(), first);
  if (sandboxes.size() > query.limit) {
    sandboxes.resize(query.limit);
    page.next_token = write_cursor({sandboxes.back().started_at, sandboxes.back().id, query.ascending});
  }
  page.sandboxes = std::move(sandboxes);
  return page;
}

Result<PageQuery> parse_page_query(std::string_view text) {
  auto parameters = read_parameters(text);
  if (!parameters.ok()) return parameters.error();
  PageQuery query;
  for (const auto& [name, value] : *parameters) {
    if (value.empty()) continue;
    CUBE_TRY(read_page_parameter(name, value, query));
  }
  return query;
}

TemplatePage select_page(std::vector<templates::TemplateInfo> infos, const PageQuery& query) {
  const auto before = [](const auto& a, const auto& b) {
    return a.created_at != b.created_at ? a.created_at > b.created_at : a.id < b.id;
  };
  if (query.after) {
    templates::TemplateInfo last;
    last.created_at = query.after->started_at;
    last.id = query.after->id;
    std::erase_if(infos, [&](const auto& info) { return !before(last, info); });
  }
  std::ranges::sort(infos, before);
  TemplatePage page;
  if (infos.size() > query.limit) {
    infos.resize(query.limit);
    page.next_token = write_cursor({infos.back().created_at, infos.back().id, false});
  }
  page.templates = std::move(infos);
  return page;
}

Result<SnapshotQuery> parse_snapshot_query(std::string_view text) {
  auto parameters = read_parameters(text);
  if (!parameters.ok()) return parameters.error();
  SnapshotQuery query;
  for (const auto& [name, value] : *parameters) {
    if (value.empty()) continue;
    if (name == "sandboxID") query.sandbox_id = value.substr(0, value.find('-'));
    if (name == "name") query.name = value.substr(0, value.find(':'));
    CUBE_TRY(read_page_parameter(name, value, query));
  }
  return query;
}

SnapshotPage select_page(std::vector<node::CheckpointInfo> snapshots, const SnapshotQuery& query) {
  std::erase_if(snapshots, [&](const node::CheckpointInfo& info) {
    const bool before_page =
        query.after && (info.created_at > query.after->started_at ||
                        (info.created_at == query.after->started_at && info.id <= query.after->id));
    return before_page || (!query.sandbox_id.empty() && info.sandbox_id != query.sandbox_id) ||
           (!query.name.empty() && info.name != query.name && info.id != query.name);
  });
  SnapshotPage page;
  if (snapshots.size() > query.limit) {
    snapshots.resize(query.limit);
    page.next_token = write_cursor({snapshots.back().created_at, snapshots.back().id, false});
  }
  page.snapshots = std::move(snapshots);
  return page;
}

}  // namespace cube::api
