// Commits a turn of an agent and meets a refusal: a client of RuntimeStore in one file.
//
//	go generate && go run . [ADDRESS]
package main

//go:generate buf generate ../../proto

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "runtimestore/v1"
)

func main() {
	address := "127.0.0.1:50051"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	if err := run(address); err != nil {
		log.Fatal(err)
	}
}

func run(address string) error {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	store := pb.NewRuntimeStoreClient(connection)
	// A deadline on every call, or on all of them: without one a call to a server that is not there may wait for ever.
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	sessionID, inputID := newUUID(), newUUID()
	runtimeID := "rt:session:" + sessionID

	// Persist the input first, then tell its sender that it was accepted.
	queued := &pb.StoredInputState{InputId: inputID, StateJson: inputDocument(inputID, "queued")}
	persisted, err := store.PersistInputState(ctx, &pb.PersistInputStateRequest{
		RuntimeId: runtimeID,
		RequestId: newUUID(),
		State:     queued,
	})
	if err != nil {
		return err
	}
	fmt.Println("accepted at revision", persisted.Revision)

	// The turn: session, receipt and the consumed input, in one transaction.
	session := sessionDocument(sessionID)
	turn := &pb.AtomicApplyRequest{
		RuntimeId: runtimeID,
		// Minted once for the write and kept over its retries: a repeat is answered as the first time and changes nothing.
		RequestId:    newUUID(),
		SessionDelta: &pb.SessionDelta{Delta: &pb.SessionDelta_SessionSnapshot{SessionSnapshot: session}},
		Receipt: &pb.RunBoundaryReceipt{
			RunId:                newUUID(),
			Boundary:             pb.RunApplyBoundary_RUN_APPLY_BOUNDARY_RUN_START,
			ContributingInputIds: []string{inputID},
			MessageCount:         2,
		},
		InputUpdates: []*pb.StoredInputState{{InputId: inputID, StateJson: inputDocument(inputID, "consumed")}},
		IfRevision:   &persisted.Revision, // nobody else wrote in between
	}
	for range 2 { // as a retry would, when the first answer is lost
		committed, err := store.AtomicApply(ctx, turn)
		if err != nil {
			return err
		}
		fmt.Printf("committed at revision %d, replayed %t\n", committed.Revision, committed.Replayed)
	}

	loaded, err := loadSession(ctx, store, runtimeID)
	if err != nil {
		return err
	}
	fmt.Println("session equal:", string(loaded) == string(session))

	// The same boundary as another request: refused, and the refusal says why.
	turn.RequestId, turn.IfRevision = newUUID(), nil
	_, err = store.AtomicApply(ctx, turn)
	fmt.Println("refused:", reason(err))
	if reason(err) != pb.ErrorReason_BOUNDARY_RECEIPT_EXISTS {
		return fmt.Errorf("another refusal was expected: %w", err)
	}
	return nil
}

// reason decodes a refusal: google.rpc.Status holds a google.rpc.ErrorInfo, and that the reason. A reason that is unknown here
// (of a newer server), or none (the connection failed), is ERROR_REASON_UNSPECIFIED: go by the status code then.
func reason(err error) pb.ErrorReason {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Domain == "runtimestore.v1" {
			return pb.ErrorReason(pb.ErrorReason_value[info.Reason])
		}
	}
	return pb.ErrorReason_ERROR_REASON_UNSPECIFIED
}

// loadSession joins the parts of a session: a description first, then chunks. No part at all means no session: nil.
func loadSession(ctx context.Context, store pb.RuntimeStoreClient, runtimeID string) ([]byte, error) {
	parts, err := store.LoadSessionSnapshot(ctx, &pb.LoadSessionSnapshotRequest{RuntimeId: runtimeID})
	if err != nil {
		return nil, err
	}
	var info *pb.SessionSnapshotInfo
	var session []byte
	for {
		part, err := parts.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if part.GetInfo() != nil {
			info = part.GetInfo()
		}
		session = append(session, part.GetChunk()...)
	}
	if sum := sha256.Sum256(session); info != nil && string(sum[:]) != string(info.Sha256) {
		return nil, errors.New("what arrived is not what was written")
	}
	return session, nil
}

func inputDocument(inputID, state string) string {
	return fmt.Sprintf(`{"input_id":"%s","current_state":"%s","prompt":"Hello"}`, inputID, state)
}

func sessionDocument(sessionID string) []byte {
	now := fmt.Sprintf(`{"secs_since_epoch":%d,"nanos_since_epoch":0}`, time.Now().Unix())
	return fmt.Appendf(nil, `{"id":"%s","messages":[{"role":"user","content":"Hello"},`+
		`{"role":"assistant","content":"Hello!"}],"created_at":%s,"updated_at":%s}`, sessionID, now, now)
}

// newUUID is a random UUID, version 4; github.com/google/uuid does the same.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
