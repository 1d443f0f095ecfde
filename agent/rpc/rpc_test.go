package rpc

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// calls has one good request for every method but Watch, and what the agent
// must be called with.
func calls() map[string]struct {
	request proto.Message
	reply   proto.Message
	agent   string
} {
	connection := &nodev1.Connection{BackendKind: "local", Source: "docs"}
	attachment := &nodev1.Attachment{Id: "a", Instance: "vm1", Connection: connection, Tag: "docs"}
	network := &nodev1.Network{Id: "n", Plug: &nodev1.Network_Bridge{Bridge: &nodev1.BridgePlug{Bridge: "br0"}}, Addresses: []string{"10.0.0.1/24"}}
	export := &nodev1.Export{Id: "e", Network: "n", Connection: connection}
	rule := &nodev1.AccessRule{Client: "10.0.0.7", Level: nodev1.Level_LEVEL_RO}
	return map[string]struct {
		request proto.Message
		reply   proto.Message
		agent   string
	}{
		nodev1.Attachments_Attach_FullMethodName:       {&nodev1.AttachRequest{Attachment: attachment}, &nodev1.AttachResponse{}, "Attach"},
		nodev1.Attachments_Detach_FullMethodName:       {&nodev1.DetachRequest{Id: "x"}, &nodev1.DetachResponse{}, "Detach x"},
		nodev1.Attachments_Get_FullMethodName:          {&nodev1.GetAttachmentRequest{Id: "x"}, &nodev1.GetAttachmentResponse{}, "Attachment x"},
		nodev1.Attachments_List_FullMethodName:         {&nodev1.ListAttachmentsRequest{}, &nodev1.ListAttachmentsResponse{}, "Attachments"},
		nodev1.Attachments_Repair_FullMethodName:       {&nodev1.RepairAttachmentRequest{Id: "x"}, &nodev1.RepairAttachmentResponse{}, "RepairAttachment x"},
		nodev1.Networks_Put_FullMethodName:             {&nodev1.PutNetworkRequest{Network: network}, &nodev1.PutNetworkResponse{}, "PutNetwork"},
		nodev1.Networks_Update_FullMethodName:          {&nodev1.UpdateNetworkRequest{Network: network, Generation: 3}, &nodev1.UpdateNetworkResponse{}, "UpdateNetwork 3"},
		nodev1.Networks_Delete_FullMethodName:          {&nodev1.DeleteNetworkRequest{Id: "x"}, &nodev1.DeleteNetworkResponse{}, "DeleteNetwork x"},
		nodev1.Networks_Get_FullMethodName:             {&nodev1.GetNetworkRequest{Id: "x"}, &nodev1.GetNetworkResponse{}, "Network x"},
		nodev1.Networks_List_FullMethodName:            {&nodev1.ListNetworksRequest{}, &nodev1.ListNetworksResponse{}, "Networks"},
		nodev1.Exports_Put_FullMethodName:              {&nodev1.PutExportRequest{Export: export}, &nodev1.PutExportResponse{}, "PutExport"},
		nodev1.Exports_Delete_FullMethodName:           {&nodev1.DeleteExportRequest{Id: "x"}, &nodev1.DeleteExportResponse{}, "DeleteExport x"},
		nodev1.Exports_Get_FullMethodName:              {&nodev1.GetExportRequest{Id: "x"}, &nodev1.GetExportResponse{}, "Export x"},
		nodev1.Exports_List_FullMethodName:             {&nodev1.ListExportsRequest{}, &nodev1.ListExportsResponse{}, "Exports"},
		nodev1.Exports_PutRule_FullMethodName:          {&nodev1.PutRuleRequest{Export: "e", Rule: rule}, &nodev1.PutRuleResponse{}, "PutRule e"},
		nodev1.Exports_DeleteRule_FullMethodName:       {&nodev1.DeleteRuleRequest{Export: "e", Id: "x"}, &nodev1.DeleteRuleResponse{}, "DeleteRule e x"},
		nodev1.Exports_GetRule_FullMethodName:          {&nodev1.GetRuleRequest{Export: "e", Id: "x"}, &nodev1.GetRuleResponse{}, "Rule e x"},
		nodev1.Exports_ListRules_FullMethodName:        {&nodev1.ListRulesRequest{Export: "e"}, &nodev1.ListRulesResponse{}, "Rules e"},
		nodev1.Exports_RecoverRules_FullMethodName:     {&nodev1.RecoverRulesRequest{Export: "e"}, &nodev1.RecoverRulesResponse{}, "RecoverRules e"},
		nodev1.Attachments_Preflight_FullMethodName:    {&nodev1.PreflightAttachmentRequest{Attachment: attachment}, &nodev1.PreflightAttachmentResponse{}, "PreflightAttachment"},
		nodev1.Node_Get_FullMethodName:                 {&nodev1.GetNodeRequest{}, &nodev1.GetNodeResponse{}, "Node"},
		nodev1.Node_Preflight_FullMethodName:           {&nodev1.PreflightRequest{}, &nodev1.PreflightResponse{}, "Preflight"},
		nodev1.Attachments_PrepareStart_FullMethodName: {&nodev1.PrepareStartRequest{Instance: "vm1", InstanceUuid: "u"}, &nodev1.PrepareStartResponse{}, "PrepareStart u"},
		nodev1.Attachments_Prepare_FullMethodName: {&nodev1.PrepareAttachmentRequest{Attachment: attachment, ExpiresAt: timestamppb.New(time.Unix(1e9, 0))},
			&nodev1.PrepareAttachmentResponse{}, "Prepare until 2001-09-09T01:46:40Z"},
		nodev1.Attachments_Finish_FullMethodName: {&nodev1.FinishAttachmentRequest{Id: "x"}, &nodev1.FinishAttachmentResponse{}, "Finish x"},
		nodev1.Attachments_Release_FullMethodName: {&nodev1.ReleaseAttachmentRequest{Id: "x", ExpiresAt: timestamppb.New(time.Unix(1e9, 0))},
			&nodev1.ReleaseAttachmentResponse{}, "Release x until 2001-09-09T01:46:40Z"},
		nodev1.Attachments_Rollback_FullMethodName: {&nodev1.RollbackAttachmentRequest{Id: "x"}, &nodev1.RollbackAttachmentResponse{}, "Rollback x"},
	}
}

func descriptors() []grpc.ServiceDesc {
	return []grpc.ServiceDesc{
		nodev1.Attachments_ServiceDesc, nodev1.Networks_ServiceDesc,
		nodev1.Exports_ServiceDesc, nodev1.Node_ServiceDesc,
	}
}

func TestEveryMethodReachesTheAgent(t *testing.T) {
	f := &fake{}
	s := serveFake(t, Options{Agent: f})
	all := calls()
	for _, d := range descriptors() {
		for _, m := range d.Methods {
			method := "/" + d.ServiceName + "/" + m.MethodName
			c, ok := all[method]
			if !ok {
				t.Errorf("%s is not in this test", method)
				continue
			}
			delete(all, method)
			f.calls = nil
			if err := s.Invoke(t.Context(), method, c.request, c.reply); err != nil {
				t.Errorf("%s: %v", method, err)
			}
			if want := []string{c.agent}; !slices.Equal(f.calls, want) {
				t.Errorf("%s called %q, want %q", method, f.calls, want)
			}
		}
	}
	if len(all) > 0 {
		t.Errorf("no such methods: %q", slices.Collect(maps.Keys(all)))
	}
}

func TestMutatingMethodsAreKnown(t *testing.T) {
	for _, d := range descriptors() {
		for _, m := range d.Methods {
			method := "/" + d.ServiceName + "/" + m.MethodName
			_, changes := mutating(method)
			reads := slices.Contains([]string{"Get", "GetRule", "List", "ListRules", "Preflight"}, m.MethodName)
			if changes == reads {
				t.Errorf("%s: mutating says %v, its name says that it reads: %v", method, changes, reads)
			}
		}
	}
}

func TestAudit(t *testing.T) {
	f := &fake{}
	s := serveFake(t, Options{Agent: f})
	ctx := metadata.AppendToOutgoingContext(t.Context(), RequestIDKey, "req-7")
	for method, c := range calls() {
		if err := s.Invoke(ctx, method, c.request, c.reply); err != nil {
			t.Fatal(err)
		}
	}
	f.err = &fault.Error{Kind: fault.Busy, Reason: "mount_busy", Message: "busy"}
	_ = s.Invoke(ctx, nodev1.Exports_Delete_FullMethodName, &nodev1.DeleteExportRequest{Id: "e\n" + strings.Repeat("x", 100)}, &nodev1.DeleteExportResponse{})
	s.stop()

	var verbs []string
	for _, line := range s.logged.lines(t, "audit") {
		verbs = append(verbs, line["verb"].(string))
		if line["uid"] != float64(os.Getuid()) || line["pid"] != float64(os.Getpid()) || line["request"] != "req-7" {
			t.Errorf("audit line %v does not name this process and its request", line)
		}
		for _, key := range []string{"id", "code", "reason", "dur"} {
			if _, ok := line[key]; !ok {
				t.Errorf("audit line %v has no %s", line, key)
			}
		}
	}
	last := s.logged.lines(t, "audit")[len(verbs)-1]
	if last["code"] != "Aborted" || last["reason"] != "mount_busy" || len(last["id"].(string)) > 70 {
		t.Errorf("audit of a failure: %v", last)
	}
	slices.Sort(verbs)
	want := []string{"attachment.attach", "attachment.detach", "attachment.finish", "attachment.prepare", "attachment.release", "attachment.repair", "attachment.rollback",
		"export.delete", "export.delete", "export.put", "export.rule.delete", "export.rule.put", "export.rules.recover", "instance.prepare-start", "network.delete", "network.put", "network.update"}
	if diff := cmp.Diff(want, verbs); diff != "" {
		t.Errorf("audited verbs (-want +got):\n%s", diff)
	}
}

// info is the ErrorInfo of an error, or nil.
func info(err error) *errdetails.ErrorInfo {
	for _, d := range status.Convert(err).Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok {
			return i
		}
	}
	return nil
}

func TestSecretsDoNotComeBack(t *testing.T) {
	f := &fake{}
	s := serveFake(t, Options{Agent: f})
	client := nodev1.NewAttachmentsClient(s)
	attach := func() (*nodev1.AttachResponse, error) {
		return client.Attach(t.Context(), &nodev1.AttachRequest{Attachment: &nodev1.Attachment{
			Id: "a", Instance: "vm1", Tag: "docs",
			Connection: &nodev1.Connection{BackendKind: "cephfs", Source: "v", Secret: []byte("hunter2\n")},
		}})
	}
	resp, err := attach()
	if err != nil {
		t.Fatal(err)
	}
	if got := string(f.attachment.Connection.Secret.Reveal()); got != "hunter2\n" {
		t.Errorf("the agent got the secret %q", got)
	}
	if resp.GetAttachment().GetConnection().GetSecret() != nil {
		t.Error("the secret came back")
	}
	for _, kind := range []fault.Kind{fault.Precondition, fault.Internal} {
		f.err = &fault.Error{Kind: kind, Reason: "backend_refused", Message: "no",
			Metadata: map[string]string{"said": "key hunter2"}, Err: errors.New("mount -o secret=hunter2 failed")}
		_, err = attach()
		if text := err.Error() + info(err).String(); strings.Contains(text, "hunter2") || info(err).GetReason() != "backend_refused" {
			t.Errorf("%s: error %q", kind, text)
		}
	}
	s.stop()
	if strings.Contains(s.logged.String(), "hunter2") {
		t.Errorf("the log has the secret:\n%s", s.logged)
	}
}

func TestPanicIsOneCallsError(t *testing.T) {
	f := &fake{}
	s := serveFake(t, Options{Agent: f})
	client := nodev1.NewNodeClient(s)
	f.hook = func(context.Context) error { panic("out of cheese") }
	_, err := client.Get(t.Context(), &nodev1.GetNodeRequest{})
	if status.Code(err) != codes.Internal || info(err).GetReason() != "internal" || strings.Contains(err.Error(), "cheese") {
		t.Errorf("error %v", err)
	}
	f.hook = nil
	if _, err := client.Get(t.Context(), &nodev1.GetNodeRequest{}); err != nil {
		t.Errorf("after the panic: %v", err)
	}
	s.stop()
	if lines := s.logged.lines(t, "call failed with an internal error"); len(lines) != 1 || !strings.Contains(lines[0]["err"].(string), "cheese") {
		t.Errorf("logged %v", lines)
	}
}

func TestCallEndsWithItsTime(t *testing.T) {
	f := &fake{hook: func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}}
	s := serveFake(t, Options{Agent: f, CallTimeout: time.Millisecond})
	_, err := nodev1.NewNodeClient(s).Get(t.Context(), &nodev1.GetNodeRequest{})
	if status.Code(err) != codes.DeadlineExceeded || info(err).GetReason() != "deadline" {
		t.Errorf("error %v, %v", err, info(err))
	}
}

func TestCallEndsBeforeItsCaller(t *testing.T) {
	s := New(Options{Agent: &fake{}, CallTimeout: time.Hour})
	for _, theirs := range []time.Duration{time.Minute, time.Second, 10 * time.Hour} {
		caller, cancel := context.WithTimeout(t.Context(), theirs)
		defer cancel()
		ctx, cancel := s.bound(caller)
		defer cancel()
		ours, _ := ctx.Deadline()
		limit, _ := caller.Deadline()
		if !ours.Before(limit) || limit.Sub(ours) > theirs/10+500*time.Millisecond && theirs < time.Hour {
			t.Errorf("caller's %s: ends %s before", theirs, limit.Sub(ours))
		}
	}
}

func TestWatch(t *testing.T) {
	f := &fake{events: []model.Event{
		{Attachment: &model.Attachment{ID: "a"}},
		{Network: &model.Network{ID: "n"}},
		{Synced: true},
		{Deleted: true, Export: &model.Export{ID: "e"}},
	}}
	s := serveFake(t, Options{Agent: f, Drain: time.Hour})
	stream, err := nodev1.NewNodeClient(s).Watch(t.Context(), &nodev1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	healthWatch, err := healthv1.NewHealthClient(s).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := healthWatch.Recv(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for range f.events {
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r.GetType().String()+" "+r.GetAttachment().GetId()+r.GetNetwork().GetId()+r.GetExport().GetId())
	}
	want := []string{"TYPE_PUT a", "TYPE_PUT n", "TYPE_SYNCED ", "TYPE_DELETED e"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	s.stop() // must not wait for the watchers to go
	_, err = stream.Recv()
	if status.Code(err) != codes.Unavailable || info(err).GetReason() != "shutting_down" {
		t.Errorf("at the stop: %v, %v", err, info(err))
	}
}

func TestWatchOverrun(t *testing.T) {
	f := &fake{err: &fault.Error{Kind: fault.Busy, Reason: "watch_overrun", Message: "too slow"}}
	s := serveFake(t, Options{Agent: f})
	stream, err := nodev1.NewNodeClient(s).Watch(t.Context(), &nodev1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = stream.Recv(); status.Code(err) != codes.Aborted || info(err).GetReason() != "watch_overrun" {
		t.Errorf("error %v", err)
	}
}

func TestStopDrainsCalls(t *testing.T) {
	for name, c := range map[string]struct {
		drain time.Duration
		ends  bool // by itself
		code  codes.Code
	}{
		"a call that ends":  {drain: time.Hour, ends: true, code: codes.OK},
		"a call that hangs": {drain: time.Millisecond, code: codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			begun, release := make(chan struct{}), make(chan struct{})
			f := &fake{hook: func(ctx context.Context) error {
				close(begun)
				select {
				case <-release:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}}
			s := serveFake(t, Options{Agent: f, Drain: c.drain})
			result := make(chan error, 1)
			go func() {
				_, err := nodev1.NewNodeClient(s).Get(t.Context(), &nodev1.GetNodeRequest{})
				result <- err
			}()
			<-begun
			stopped := make(chan struct{})
			go func() { s.stop(); close(stopped) }()
			<-s.server.stopping
			if c.ends {
				close(release)
			}
			if err := <-result; status.Code(err) != c.code {
				t.Errorf("call: %v, want %s", err, c.code)
			}
			<-stopped
		})
	}
}

func TestHealthFollowsSync(t *testing.T) {
	s := serveFake(t, Options{Agent: &fake{}})
	check := func(want healthv1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		for _, name := range services() {
			r, err := healthv1.NewHealthClient(s).Check(t.Context(), &healthv1.HealthCheckRequest{Service: name})
			if err != nil || r.GetStatus() != want {
				t.Errorf("health of %q: %v, %v, want %s", name, r, err, want)
			}
		}
	}
	check(healthv1.HealthCheckResponse_NOT_SERVING)
	s.server.MarkServing()
	check(healthv1.HealthCheckResponse_SERVING)
	s.server.MarkNotServing()
	check(healthv1.HealthCheckResponse_NOT_SERVING)
}

func TestReflection(t *testing.T) {
	s := serveFake(t, Options{Agent: &fake{}})
	stream, err := reflectionv1.NewServerReflectionClient(s).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	r, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, svc := range r.GetListServicesResponse().GetService() {
		names = append(names, svc.GetName())
	}
	for _, want := range services()[1:] {
		if !slices.Contains(names, want) {
			t.Errorf("reflection lists %q, not %s", names, want)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("end of the stream: %v", err)
	}
}

func TestRequestIDs(t *testing.T) {
	for _, id := range []string{"", "a b", "x\ny", strings.Repeat("x", 65), "ü"} {
		if decent(id) {
			t.Errorf("%q passes for a request's name", id)
		}
	}
	if !decent("req-9f.3_A") {
		t.Error("a good name does not pass")
	}
}
