// The shapes of bodies, for GET /openapi.json; openapi.hpp has the language they are written in.
#include "api/openapi.hpp"

namespace cube::api {
namespace {

constexpr Schema schemas[] = {
    {"Error", "code!:integer message!:string error_code:string", "code is the HTTP status"},

    // Sandboxes
    {"NewSandbox",
     "templateID!:string timeout:integer? metadata:strings? envVars:strings? autoPause:boolean? "
     "autoPauseMemory:boolean? autoResume:AutoResume? secure:boolean? allow_internet_access:boolean? "
     "network:object? mcp:object? iam:object? volumeMounts:[object]?",
     "The template may be named by id, name, name:tag, or be a snapshot's id. Sandboxes are always secured. "
     "Of "
     "what is not supported, values that ask for nothing are accepted."},
    {"AutoResume", "enabled:boolean?", "Whether traffic resumes it once it is paused"},
    {"Sandbox",
     "templateID!:string sandboxID!:string clientID!:string envdVersion!:string alias:string "
     "envdAccessToken:string trafficAccessToken:string? domain:string?",
     ""},
    {"ListedSandbox",
     "templateID!:string sandboxID!:string clientID!:string envdVersion!:string alias:string "
     "state!:running|paused startedAt!:date endAt!:date cpuCount!:integer memoryMB!:integer "
     "diskSizeMB!:integer metadata:strings volumeMounts:[object] envdUnresponsiveAtPause:boolean",
     ""},
    {"SandboxDetail",
     "templateID!:string sandboxID!:string clientID!:string envdVersion!:string alias:string "
     "envdAccessToken:string domain:string? state!:running|paused startedAt!:date endAt!:date "
     "cpuCount!:integer memoryMB!:integer diskSizeMB!:integer metadata:strings volumeMounts:[object] "
     "allowInternetAccess:boolean? network:object lifecycle:SandboxLifecycle pauseMode:full|filesystem "
     "envdUnresponsiveAtPause:boolean",
     "pauseMode is there while it is paused; envdUnresponsiveAtPause once its agent did not answer when it "
     "was "
     "resumed"},
    {"SandboxLifecycle", "autoResume!:boolean onTimeout!:kill|pause", ""},
    {"ConnectSandbox", "timeout:integer? memory:boolean?",
     "memory false boots a paused sandbox from its disk; what was not written to it is lost"},
    {"ResumedSandbox", "timeout:integer? memory:boolean? autoPause:boolean?", ""},
    {"SandboxTimeoutRequest", "timeout!:integer", "Seconds from now, earlier or later; zero or less is now"},
    {"SandboxRefreshRequest", "duration:integer?", "Seconds from now, 15 to 3600; only ever extends"},
    {"SandboxPauseRequest", "memory:boolean? requireHealthyGuest:boolean?",
     "memory false keeps the file system only; requireHealthyGuest fails if the agent is silent"},
    {"SandboxNetworkUpdate",
     "denyOut:[string]? allowOut:[string]? rules:object? egressProxy:object? dnsServers:[string]? "
     "allow_internet_access:boolean?",
     "IPs and CIDRs; what is left out is cleared"},
    {"SandboxForkRequest", "timeout:integer? count:integer?", "1 to 100 copies"},
    {"SandboxForkResult", "sandbox:Sandbox error:Error", "One of the two"},
    {"SandboxRollbackRequest", "snapshotID!:string", "Its own, or one that it descends from"},
    {"SandboxSnapshotRequest", "name:string? memory:boolean?", ""},
    {"SnapshotInfo", "snapshotID!:string names!:[string]", ""},

    // What they use and what happened to them
    {"SandboxMetric",
     "timestamp!:date timestampUnix!:integer cpuCount!:integer cpuUsedPct!:number memUsed!:integer "
     "memTotal!:integer memCache!:integer diskUsed!:integer diskTotal!:integer",
     "Bytes, and percent of all processors together"},
    {"SandboxesWithMetrics", "sandboxes!:{SandboxMetric}",
     "By sandbox id; without those that have no sample"},
    {"SandboxLog", "timestamp!:date line!:string", "line is JSON with level, logger, message and the fields"},
    {"SandboxLogEntry", "timestamp!:date level!:debug|info|warn|error message!:string fields!:strings", ""},
    {"SandboxLogs", "logs!:[SandboxLog] logEntries!:[SandboxLogEntry]", ""},
    {"SandboxLogsV2Response", "logs!:[SandboxLogEntry]", ""},

    // Templates
    {"Template",
     "templateID!:string buildID!:uuid names!:[string] aliases!:[string] public!:boolean cpuCount!:integer "
     "memoryMB!:integer diskSizeMB!:integer createdAt!:date updatedAt!:date createdBy!:object? "
     "lastSpawnedAt!:date? spawnCount!:integer buildCount!:integer envdVersion!:string "
     "buildStatus!:building|waiting|ready|error",
     ""},
    {"TemplateWithBuilds",
     "templateID!:string buildID!:uuid names!:[string] aliases!:[string] public!:boolean cpuCount!:integer "
     "memoryMB!:integer diskSizeMB!:integer createdAt!:date updatedAt!:date createdBy!:object? "
     "lastSpawnedAt!:date? spawnCount!:integer buildCount!:integer envdVersion!:string "
     "buildStatus!:building|waiting|ready|error builds!:[TemplateBuild]",
     ""},
    {"TemplateBuild",
     "buildID!:uuid status!:building|waiting|ready|error createdAt!:date updatedAt!:date finishedAt:date "
     "cpuCount!:integer memoryMB!:integer diskSizeMB:integer envdVersion:string",
     ""},
    {"TemplateAliasResponse", "templateID!:string public!:boolean", ""},
    {"TemplateTag", "tag!:string buildID!:uuid createdAt!:date", ""},
    {"TemplateUpdateRequest", "public:boolean?", "true is not supported"},
    {"TemplateUpdateResponse", "names!:[string]", ""},
    {"TemplateImageRequest",
     "name!:string image!:string cpuCount:integer? memoryMB:integer? diskSizeMB:integer? readyCmd:string?",
     "image is the bare name of a file in the server's image directory; the snapshot is taken once readyCmd, "
     "run "
     "as root, succeeds"},

    // The server
    {"Team", "teamID!:string name!:string apiKey!:string isDefault!:boolean", ""},
    {"Status", "sandboxes!:SandboxCounts warmPool!:PoolCounts shellPool!:PoolCounts", ""},
    {"SandboxCounts", "running!:integer paused!:integer", ""},
    {"PoolCounts", "waiting!:integer wanted!:integer hits!:integer misses!:integer", ""},
};

}  // namespace

std::span<const Schema> documented_schemas() { return schemas; }

}  // namespace cube::api
