// What each call takes and answers, for GET /openapi.json; openapi.hpp has the language. In the order of
// routes.cpp.
#include "api/openapi.hpp"

namespace cube::api {
namespace {

constexpr std::string_view list_parameters =
    "metadata:string state:string order:asc|desc startedAfter:date template:string limit:integer "
    "nextToken:string";

constexpr Operation operations[] = {
    {"GET", "/health", "Whether the server is there", "200 text/plain", "", "", ""},
    {"GET", "/teams", "The one team, with the key that was given", "200 [Team]", "", "", ""},
    {"GET", "/status", "Sandboxes by state, and how the pools do", "200 Status", "", "", ""},
    {"GET", "/openapi.json", "This document", "200 object", "", "", ""},

    {"POST", "/sandboxes", "Create a sandbox (SDKs up to 2.50); lives 15 seconds unless told otherwise",
     "201 Sandbox", "400 404 501 503", "", "NewSandbox"},
    {"POST", "/v2/sandboxes",
     "Create a sandbox; lives 300 seconds unless told otherwise. Sent again with the same Idempotency-Key "
     "within a day it answers the same sandbox",
     "201 Sandbox", "400 404 409 422 429 501 503", "@Idempotency-Key:string", "NewSandbox"},
    {"GET", "/sandboxes", "Every running sandbox", "200 [ListedSandbox]", "400", "metadata:string", ""},
    {"GET", "/v2/sandboxes", "Sandboxes, page by page", "200 [ListedSandbox] X-Next-Token X-Total-Running",
     "400", list_parameters, ""},
    {"GET", "/sandboxes/metrics", "The newest sample of each", "200 SandboxesWithMetrics", "400",
     "sandbox_ids!:string", ""},
    {"GET", "/sandboxes/{}", "One sandbox", "200 SandboxDetail", "400 404", "", ""},
    {"DELETE", "/sandboxes/{}", "Kill it", "204", "400 404", "", ""},
    {"POST", "/sandboxes/{}/connect",
     "Extend a running sandbox, or resume a paused one (SDKs up to 2.50); 15 seconds unless told otherwise",
     "200 Sandbox\n201 Sandbox", "400 404 409 503", "", "ConnectSandbox?"},
    {"POST", "/v2/sandboxes/{}/connect",
     "Extend a running sandbox, or resume a paused one; 300 seconds unless told otherwise",
     "200 Sandbox\n201 Sandbox", "400 404 409 503", "", "ConnectSandbox?"},
    {"POST", "/sandboxes/{}/timeout", "Set when it ends", "204", "400 404", "", "SandboxTimeoutRequest"},
    {"POST", "/sandboxes/{}/refreshes", "Extend it", "204", "400 404", "", "SandboxRefreshRequest?"},
    {"POST", "/sandboxes/{}/pause", "Pause it", "204", "400 404 409 503", "", "SandboxPauseRequest?"},
    {"POST", "/sandboxes/{}/resume", "Resume it", "201 Sandbox", "400 404 409 503", "", "ResumedSandbox?"},
    {"POST", "/sandboxes/{}/fork", "Copy a running sandbox", "201 [SandboxForkResult]", "400 404 409", "",
     "SandboxForkRequest?"},
    {"POST", "/sandboxes/{}/rollback", "Make it what it was at a snapshot", "200 Sandbox", "400 404 409 503",
     "", "SandboxRollbackRequest"},
    {"POST", "/sandboxes/{}/snapshots", "Keep it as it is now", "201 SnapshotInfo", "400 404 409 503", "",
     "SandboxSnapshotRequest?"},
    {"PUT", "/sandboxes/{}/network",
     "Replace what it may reach; what would let something out is not supported", "204", "400 404 501", "",
     "SandboxNetworkUpdate"},
    {"GET", "/sandboxes/{}/metrics", "What it used, in Unix seconds; samples are taken while somebody asks",
     "200 [SandboxMetric]", "400 404", "start:integer end:integer", ""},
    {"GET", "/sandboxes/{}/logs", "What happened to it and in it, oldest first, from Unix milliseconds on",
     "200 SandboxLogs", "400 404", "start:integer limit:integer", ""},
    {"GET", "/v2/sandboxes/{}/logs", "What happened to it and in it, from Unix milliseconds on or back",
     "200 SandboxLogsV2Response", "400 404",
     "cursor:integer limit:integer direction:forward|backward level:debug|info|warn|error search:string", ""},
    {"GET", "/snapshots", "Snapshots, newest first, page by page", "200 [SnapshotInfo] X-Next-Token", "400",
     "sandboxID:string name:string limit:integer nextToken:string", ""},

    {"GET", "/templates", "Every template", "200 [Template]", "", "teamID:string", ""},
    {"GET", "/v2/templates", "Templates, newest first, page by page", "200 [Template] X-Next-Token", "400",
     "teamID:string limit:integer nextToken:string", ""},
    {"POST", "/templates/images",
     "Build a template from a root file system image; answers JSON lines: progress, then template or error",
     "200 application/x-ndjson", "400 501", "", "TemplateImageRequest"},
    {"GET", "/templates/{}", "One template", "200 TemplateWithBuilds", "400 404", "", ""},
    {"DELETE", "/templates/{}", "Delete a template or a snapshot", "204", "400 404", "", ""},
    {"PATCH", "/templates/{}", "Publish or unpublish", "200 TemplateUpdateResponse", "400 404 501", "",
     "TemplateUpdateRequest"},
    {"PATCH", "/v2/templates/{}", "Publish or unpublish", "200 TemplateUpdateResponse", "400 404 501", "",
     "TemplateUpdateRequest"},
    {"GET", "/templates/aliases/{}", "Whether there is such a template or snapshot",
     "200 TemplateAliasResponse", "400 404", "", ""},
    {"GET", "/templates/{}/tags", "Its tags", "200 [TemplateTag]", "400 404", "", ""},
};

}  // namespace

std::span<const Operation> documented_operations() { return operations; }

}  // namespace cube::api
