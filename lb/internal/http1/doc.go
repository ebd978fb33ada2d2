// Package http1 speaks HTTP/1.1 (RFC 9112) and nothing else, strictly. It has
// the codec that both ends of a connection need, and on it [Client], which talks
// to one backend in the goroutine of the caller.
//
// [Reader] parses heads and bodies, [AppendRequest], [AppendBodiless] and
// [AppendField] write heads. The framing of a message is parsed into a number and
// made anew from one: no byte of it is passed on.
//
// # What is refused
//
// A message whose end two recipients might see in different places is an error,
// never a guess. Beyond what net/http refuses, these are:
//
//   - a line that ends without CR (RFC 9112, section 2.2, only permits it);
//   - a field that goes on in the next line (obs-fold, section 5.2);
//   - Transfer-Encoding beside Content-Length, or in a message of HTTP/1.0
//     (section 6.1);
//   - Content-Length twice, though the values agree (section 6.3);
//   - a Content-Length of more than 19 digits;
//   - a request without a target or without Host, even a CONNECT (RFC 9112, section 3.2);
//   - a version other than HTTP/1.0 and HTTP/1.1;
//   - white space around the method, target, version or status, more than one
//     space between them, or after a chunk's size (RFC 9112, section 7.1.1, permits
//     it before an extension);
//   - a line break before a status line, and more than one before a request
//     line;
//   - control characters in a field, a target, a reason or a chunk extension;
//   - a field name that is no token. In a response, one with spaces that does not
//     look like a framing field's is dropped, and the connection not used again;
//   - more than 1,000 fields;
//   - a trailer of more than 16 KiB. Fields that must not be in a trailer are
//     dropped.
//
// What is more liberal than the grammar: a status line may lack the space after
// the status, as many servers send it.
package http1
