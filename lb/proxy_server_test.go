package lb

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// behindServer are the tests of the proxy that make their front by newRig or
// newBubble.
var behindServer = map[string]func(*testing.T){
	"TestAffinity":                              TestAffinity,
	"TestDeadBackendIsRepinned":                 TestDeadBackendIsRepinned,
	"TestOutageIsNotAmplified":                  TestOutageIsNotAmplified,
	"TestClientGone":                            TestClientGone,
	"TestBadRequestBody":                        TestBadRequestBody,
	"TestHeadTimeout":                           TestHeadTimeout,
	"TestHeadTimeoutIsForTheBackendOnly":        TestHeadTimeoutIsForTheBackendOnly,
	"TestDeadlineOfAMiddleware":                 TestDeadlineOfAMiddleware,
	"TestH2CBackend":                            TestH2CBackend,
	"TestHTTP2BackendGoesAway":                  TestHTTP2BackendGoesAway,
	"TestHTTP2BackendDiesWhileTheClientSends":   TestHTTP2BackendDiesWhileTheClientSends,
	"TestMalformedHTTP2":                        TestMalformedHTTP2,
	"TestInterimResponsesGoOn":                  TestInterimResponsesGoOn,
	"TestHTTP2RefusedStream":                    TestHTTP2RefusedStream,
	"TestHTTP2OverTLS":                          TestHTTP2OverTLS,
	"TestGRPC":                                  TestGRPC,
	"TestHedge":                                 TestHedge,
	"TestHedgeUnderLoad":                        TestHedgeUnderLoad,
	"TestHedgeBudget":                           TestHedgeBudget,
	"TestHedgeThenRetry":                        TestHedgeThenRetry,
	"TestHedgeClientGone":                       TestHedgeClientGone,
	"TestHedgeOnlyWhatIsSafe":                   TestHedgeOnlyWhatIsSafe,
	"TestHedgeBlames":                           TestHedgeBlames,
	"TestProxyReportsLoadAndWait":               TestProxyReportsLoadAndWait,
	"TestMirror":                                TestMirror,
	"TestMirrorIsNeverFelt":                     TestMirrorIsNeverFelt,
	"TestMirrorShare":                           TestMirrorShare,
	"TestMirrorMakesRoomAgain":                  TestMirrorMakesRoomAgain,
	"TestMirrorTellsThePool":                    TestMirrorTellsThePool,
	"TestRemovedBackendLosesItsIdleConnections": TestRemovedBackendLosesItsIdleConnections,
	"TestPinnedBackendIsFull":                   TestPinnedBackendIsFull,
	"TestOldCookieIsRenewed":                    TestOldCookieIsRenewed,
	"TestWebSocketThroughUpdates":               TestWebSocketThroughUpdates,
	"TestMalformedResponses":                    TestMalformedResponses,
	"TestRequestAsTheBackendSeesIt":             TestRequestAsTheBackendSeesIt,
	"TestAnsweredByTheProxy":                    TestAnsweredByTheProxy,
	"TestTrustedProxy":                          TestTrustedProxy,
	"TestResponseAsTheClientSeesIt":             TestResponseAsTheClientSeesIt,
	"TestHeadKeepsTheLength":                    TestHeadKeepsTheLength,
	"TestRewriteAndModifyResponse":              TestRewriteAndModifyResponse,
	"TestPanicInAHookReleasesTheBackend":        TestPanicInAHookReleasesTheBackend,
	"TestErrorHandler":                          TestErrorHandler,
	"TestProxyQueues":                           TestProxyQueues,
	"TestPassedOver":                            TestPassedOver,
	"TestRetryBody":                             TestRetryBody,
	"TestRetryBodyWhileItComes":                 TestRetryBodyWhileItComes,
	"TestRetryBodyContinuesOnce":                TestRetryBodyContinuesOnce,
	"TestRetryStatus":                           TestRetryStatus,
	"TestRetryStatusKeepsTheConnection":         TestRetryStatusKeepsTheConnection,
	"TestRetryStatusBudget":                     TestRetryStatusBudget,
	"TestMaxRequestBody":                        TestMaxRequestBody,
	"TestMaxResponseBody":                       TestMaxResponseBody,
	"TestRetryBodyTrailer":                      TestRetryBodyTrailer,
	"TestRetries":                               TestRetries,
	"TestRetriesEnd":                            TestRetriesEnd,
	"TestRefusedBackendIsTriedOnce":             TestRefusedBackendIsTriedOnce,
	"TestKilledBackendFailsNoGET":               TestKilledBackendFailsNoGET,
	"TestTruncatedResponseIsAborted":            TestTruncatedResponseIsAborted,
	"TestBadResponses":                          TestBadResponses,
	"TestExpectContinue":                        TestExpectContinue,
	"TestExpectRefused":                         TestExpectRefused,
	"TestExpectIgnoredByBackend":                TestExpectIgnoredByBackend,
	"TestExpectRefusedSlowly":                   TestExpectRefusedSlowly,
	"TestInterimResponses":                      TestInterimResponses,
	"TestInterimResponsesAreBounded":            TestInterimResponsesAreBounded,
	"TestTrailers":                              TestTrailers,
	"TestStreaming":                             TestStreaming,
	"TestResponseBeforeTheEndOfTheRequest":      TestResponseBeforeTheEndOfTheRequest,
	"TestEarlyAnswerEndsTheConnection":          TestEarlyAnswerEndsTheConnection,
	"TestIDs":                                   TestIDs,
	"TestNoIDs":                                 TestNoIDs,
	"TestTLSBackends":                           TestTLSBackends,
	"TestTLSBackendThatFailsToVerify":           TestTLSBackendThatFailsToVerify,
	"TestConnectionsAreKept":                    TestConnectionsAreKept,
	"TestSmugglingBackend":                      TestSmugglingBackend,
	"TestImpossibleRequest":                     TestImpossibleRequest,
	"TestUpdatesUnderLoad":                      TestUpdatesUnderLoad,
	"TestUpgrade":                               TestUpgrade,
	"TestUpgradeBackendEndsFirst":               TestUpgradeBackendEndsFirst,
	"TestUpgradeList":                           TestUpgradeList,
	"TestUpgradeRefused":                        TestUpgradeRefused,
	"TestPoolCloseEndsUpgrades":                 TestPoolCloseEndsUpgrades,
}

// TestProxyBehindServer runs the tests of the proxy, which run behind net/http by
// themselves, behind a Server, so that both are held to the same.
func TestProxyBehindServer(t *testing.T) {
	rigFront = newPlainServer
	defer func() { rigFront = newNetHTTP }()
	for name, f := range behindServer {
		t.Run(strings.TrimPrefix(name, "Test"), f)
	}
}

// newPlainServer is newPalisade without ConnState, which would have the Server wait
// for the next request in another way.
func newPlainServer(c frontConf, l *logBuffer) front {
	note := c.connState
	if c.connState = nil; note != nil {
		c.connContext = func(ctx context.Context, nc net.Conn) context.Context {
			note(nc, http.StateActive)
			return ctx
		}
	}
	return newPalisade(c, l)
}

// TestProxyTestsRunBehindServer: nobody forgets to add a test to the list.
func TestProxyTestsRunBehindServer(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || !strings.HasPrefix(f.Name.Name, "Test") || !makesRig(f) {
				continue
			}
			if found++; behindServer[f.Name.Name] == nil {
				t.Errorf("%s is not in behindServer", f.Name.Name)
			}
		}
	}
	if found != len(behindServer) {
		t.Errorf("%d tests make a rig, and %d are in the list", found, len(behindServer))
	}
}

func makesRig(f *ast.FuncDecl) (yes bool) {
	ast.Inspect(f, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if name, ok := call.Fun.(*ast.Ident); ok && (name.Name == "newRig" || name.Name == "newBubble") {
				yes = true
			}
		}
		return !yes
	})
	return yes
}
