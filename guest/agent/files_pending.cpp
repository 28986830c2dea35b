// Until the files service is merged: it is refused, not pretended.
#include "reply.hpp"
#include "services.hpp"

namespace cube::agent {

asio::awaitable<void> serve_files(http::Exchange& exchange, const Settings&) {
  co_await reply_error(exchange, 501, "files are not served yet");
}

Result<void> check_files_signature(const http::RequestHead&, const Settings&) {
  return make_error(ErrorCode::unimplemented, "files are not served yet");
}

}  // namespace cube::agent
