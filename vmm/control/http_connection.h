// One connection of the control server: it reads a request, answers it, and reads the next.
//
//   reading ──a request is complete──► writing the answer ──all is sent──► reading
//      │                                  │        └── a stream: it continues without a limit
//      │ not HTTP, or too large           │ "Connection: close", or refused
//      └──► writing the error ────────────┴──► lingering: nothing more is sent; bytes that the peer
//                                              still sends are dropped, until the peer closes the
//                                              connection or a time limit passes
//
// It lingers because a peer that still sends while the connection is closed gets a reset or a
// broken pipe, and may then never read the answer that explains the reason.
//
// It never blocks. The owner polls fd() for events(), and calls Step() when they arrive, or when
// NextStep() or deadline() has passed.
//
// Thread safety: one thread at a time.

#ifndef UNDERFOOT_VMM_CONTROL_HTTP_CONNECTION_H_
#define UNDERFOOT_VMM_CONTROL_HTTP_CONNECTION_H_

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "vmm/base/unique_fd.h"
#include "vmm/control/http.h"
#include "vmm/control/http_parse.h"

namespace underfoot {

// The state that all connections of a server share.
struct HttpService {
  std::function<HttpReply(const HttpRequest&)> handler;
  size_t max_body_bytes;
  // The time from the start of a connection, or the end of its last answer, to the next request
  // line; and the time that a refused client has to read the reason.
  std::chrono::milliseconds idle_timeout;
  // The time from the request line to the last byte of the answer.
  std::chrono::milliseconds request_timeout;
  size_t streams = 0;  // the number of current streams
  // The server is ending: streams end after the events so far, and no other request is read.
  bool ends = false;
};

class HttpConnection {
 public:
  using Clock = std::chrono::steady_clock;

  // `service` must outlive this object. `socket` must be non-blocking.
  HttpConnection(UniqueFd socket, HttpService* service);
  ~HttpConnection();
  HttpConnection(const HttpConnection&) = delete;
  HttpConnection& operator=(const HttpConnection&) = delete;

  // Sends the error without reading a request, and then lingers.
  void Refuse(int status, std::string_view message);

  int fd() const { return socket_.get(); }
  short events() const;
  // The time at which there is something to do that no event announces; nullopt: there is no such
  // time.
  std::optional<Clock::time_point> NextStep() const;
  Clock::time_point deadline() const { return deadline_; }
  bool in_request() const { return in_request_; }
  bool closed() const { return !socket_.valid(); }

  // Does everything that can be done without blocking. Closes the socket when all is done, the peer
  // has disconnected, or the time limit has passed.
  void Step(short revents);

 private:
  void Read();
  void Work();
  bool TakeRequest();
  void FinishRequest();
  void Answer();
  void Queue(const HttpReply& reply, bool head, bool close);
  void StartStream(HttpReply reply);
  void AskStream();
  void EndStream();
  void EndReply();             // the connection ends; what is not sent now will not be
  [[nodiscard]] bool Flush();  // false: not everything is sent yet, or the peer has disconnected
  void StartLingering();
  void Linger();
  void Prolong(std::chrono::milliseconds time) { deadline_ = Clock::now() + time; }
  void Close() { socket_.Reset(); }

  UniqueFd socket_;
  HttpService* const service_;
  std::unique_ptr<RequestReader> reader_;
  std::string in_;   // bytes that were read and are not parsed yet
  std::string out_;  // bytes to send; those from sent_ on are not sent yet
  size_t sent_ = 0;
  bool in_request_ = false;
  bool continued_ = false;  // "100 Continue" has been sent
  bool closing_ = false;    // close when out_ is sent
  bool lingering_ = false;
  bool input_ended_ = false;
  size_t dropped_ = 0;                 // the number of bytes dropped while lingering
  std::function<void()> undelivered_;  // of the reply in out_
  std::function<std::string()> stream_;
  bool stream_in_chunks_ = false;
  bool stream_idle_ = false;  // the last call returned nothing
  Clock::time_point spoke_;
  Clock::time_point deadline_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_HTTP_CONNECTION_H_
