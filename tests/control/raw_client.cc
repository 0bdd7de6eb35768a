#include "tests/control/raw_client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <charconv>

#include "vmm/control/socket_path.h"

namespace underfoot::testing {

RawClient::RawClient(const std::string& path) {
  const absl::StatusOr<sockaddr_un> address = SocketAddress(path);
  if (!address.ok()) return;
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) == 0) {
    fd_ = std::move(fd);
  }
}

bool RawClient::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

void RawClient::FinishSending() { shutdown(fd_.get(), SHUT_WR); }

bool RawClient::ReadSome(std::string* into, std::chrono::milliseconds limit) {
  pollfd polled{fd_.get(), POLLIN, 0};
  if (poll(&polled, 1, static_cast<int>(limit.count())) <= 0) return false;
  std::array<char, 4096> buffer{};
  const ssize_t got = recv(fd_.get(), buffer.data(), buffer.size(), 0);
  if (got <= 0) {  // a reset is an end, too
    ended_ = true;
    return false;
  }
  into->append(buffer.data(), static_cast<size_t>(got));
  return true;
}

std::string RawClient::ReadToEnd(std::chrono::milliseconds limit) {
  std::string all;
  while (ReadSome(&all, limit)) {
  }
  return all;
}

std::string RawClient::ReadUntil(std::string_view text, std::chrono::milliseconds limit) {
  std::string all;
  while (all.find(text) == std::string::npos && ReadSome(&all, limit)) {
  }
  return all;
}

bool RawClient::HungUp() {
  std::string ignored;
  while (ReadSome(&ignored, std::chrono::milliseconds(0))) {
  }
  return ended_;
}

bool RawClient::CutOff() const {
  pollfd polled{fd_.get(), POLLRDHUP, 0};
  return poll(&polled, 1, 0) == 1;
}

int StatusIn(std::string_view reply) {
  constexpr std::string_view kStart = "HTTP/1.1 ";
  if (!reply.starts_with(kStart)) return 0;
  int status = 0;
  std::from_chars(reply.data() + kStart.size(), reply.data() + reply.size(), status);
  return status;
}

}  // namespace underfoot::testing
