// The table of routes, of E2B's API and ours. Where two patterns fit, the first counts.
#include "api/actions.hpp"

namespace cube::api {
namespace {

constexpr Route routes[] = {
    {"GET", "/health", get_health, Access::open},
    {"GET", "/teams", list_teams, Access::key_or_bearer},
    {"GET", "/status", get_status},                       // ours
    {"GET", "/openapi.json", get_openapi, Access::open},  // ours

    {"POST", "/sandboxes", create_sandbox_v1},
    {"POST", "/v2/sandboxes", create_sandbox_v2},
    {"GET", "/sandboxes", list_sandboxes_v1},
    {"GET", "/v2/sandboxes", list_sandboxes_v2},
    {"GET", "/sandboxes/metrics", get_latest_metrics},
    {"GET", "/sandboxes/{}", get_sandbox},
    {"DELETE", "/sandboxes/{}", kill_sandbox},
    {"POST", "/sandboxes/{}/connect", connect_sandbox_v1},
    {"POST", "/v2/sandboxes/{}/connect", connect_sandbox_v2},
    {"POST", "/sandboxes/{}/timeout", set_sandbox_timeout},
    {"POST", "/sandboxes/{}/refreshes", refresh_sandbox},
    {"POST", "/sandboxes/{}/pause", pause_sandbox},
    {"POST", "/sandboxes/{}/resume", resume_sandbox},
    {"POST", "/sandboxes/{}/fork", fork_sandbox},
    {"POST", "/sandboxes/{}/rollback", rollback_sandbox},  // ours
    {"POST", "/sandboxes/{}/snapshots", take_snapshot},
    {"PUT", "/sandboxes/{}/network", set_sandbox_network},
    {"GET", "/sandboxes/{}/metrics", get_sandbox_metrics},
    {"GET", "/sandboxes/{}/logs", get_sandbox_logs_v1},
    {"GET", "/v2/sandboxes/{}/logs", get_sandbox_logs_v2},
    {"GET", "/snapshots", list_snapshots},

    {"GET", "/templates", list_templates_v1},
    {"GET", "/v2/templates", list_templates_v2},
    {"POST", "/templates/images", build_template_from_image},  // ours
    {"POST", "/templates/tags"},
    {"DELETE", "/templates/tags"},
    {"GET", "/templates/{}", get_template},
    {"DELETE", "/templates/{}", remove_template},
    {"PATCH", "/templates/{}", update_template},
    {"PATCH", "/v2/templates/{}", update_template},
    {"GET", "/templates/aliases/{}", find_template_alias},
    {"POST", "/templates"},
    {"POST", "/v2/templates"},
    {"POST", "/v3/templates"},
    {"POST", "/templates/{}"},
    {"GET", "/templates/{}/tags", list_template_tags},
    {"GET", "/templates/{}/files/{}"},
    {"POST", "/templates/{}/builds/{}"},
    {"POST", "/v2/templates/{}/builds/{}"},
    {"GET", "/templates/{}/builds/{}/status"},
    {"GET", "/templates/{}/builds/{}/logs"},

    {"GET", "/volumes"},
    {"POST", "/volumes"},
    {"GET", "/volumes/{}"},
    {"DELETE", "/volumes/{}"},
    {"GET", "/secrets"},
    {"POST", "/secrets"},
    {"GET", "/secrets/{}"},
    {"POST", "/secrets/{}"},
    {"DELETE", "/secrets/{}"},
};

}  // namespace

std::span<const Route> all_routes() { return routes; }

}  // namespace cube::api
