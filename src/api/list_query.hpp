// The queries of GET /v2/sandboxes, /snapshots and /v2/templates: filters, order, and paging with an opaque
// cursor.
#pragma once

#include <cube/core.hpp>
#include <cube/node.hpp>
#include <cube/template.hpp>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/time_text.hpp"

namespace cube::api {

/// The last item of the page before; `started_at` of a snapshot is when it was taken, of a template when it
/// was built.
struct Cursor {
  TimePoint started_at;
  std::string id;
  bool ascending = false;
};

struct ListQuery {
  std::map<std::string, std::string> metadata;  ///< all of them must match
  bool running = true;
  bool paused = true;
  bool ascending = false;                  ///< by start
  std::optional<TimePoint> started_after;  ///< or at the same time
  std::string template_ref;                ///< id or name; empty: any
  std::size_t limit = 100;
  std::optional<Cursor> after;
};

/// `invalid_argument` names the parameter.
Result<ListQuery> parse_list_query(std::string_view query);

/// The query of GET /sandboxes: metadata only, all running sandboxes at once.
Result<ListQuery> parse_first_list_query(std::string_view query);

struct Page {
  std::vector<node::SandboxInfo> sandboxes;
  std::string next_token;         ///< empty on the last page
  std::size_t total_running = 0;  ///< on all pages
};

Page select_page(std::vector<node::SandboxInfo> sandboxes, const ListQuery& query);

/// The query of GET /snapshots, newest first.
struct SnapshotQuery {
  std::string sandbox_id;  ///< empty: any
  std::string name;        ///< empty: any
  std::size_t limit = 100;
  std::optional<Cursor> after;
};
Result<SnapshotQuery> parse_snapshot_query(std::string_view query);

struct SnapshotPage {
  std::vector<node::CheckpointInfo> snapshots;
  std::string next_token;
};
SnapshotPage select_page(std::vector<node::CheckpointInfo> newest_first, const SnapshotQuery& query);

/// The query of GET /v2/templates, newest first.
struct PageQuery {
  std::size_t limit = 100;
  std::optional<Cursor> after;
};
Result<PageQuery> parse_page_query(std::string_view query);

struct TemplatePage {
  std::vector<templates::TemplateInfo> templates;
  std::string next_token;
};
TemplatePage select_page(std::vector<templates::TemplateInfo> templates, const PageQuery& query);

std::string write_cursor(const Cursor& cursor);
Result<Cursor> parse_cursor(std::string_view token);

}  // namespace cube::api
