// core: the vocabulary every other module speaks, and nothing above it.
//
// Result/Error for recoverable failures, Fd for owned descriptors, identifiers of sandboxes,
// a JSON writer, structured logs, and the byte stream that joins transports (TCP, vsock) to HTTP.
#pragma once

#include "core/async.hpp"
#include "core/async_semaphore.hpp"
#include "core/crc32c.hpp"
#include "core/fd.hpp"
#include "core/id.hpp"
#include "core/json_writer.hpp"
#include "core/log.hpp"
#include "core/result.hpp"
#include "core/secret.hpp"
#include "core/sha256.hpp"
#include "core/socket_stream.hpp"
#include "core/stream.hpp"
#include "core/timestamp.hpp"
#include "core/vectored_io.hpp"
